"""A site's own demands on a run: a run without them gets that site's refusal, not its parameters."""

import numpy as np
import pytest

from fedpurel_app.client_app import app as client_app
from fedpurel_app.core.errors import ConfigError, RunError
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.server_app import app as server_app
from tests.attacks.conftest import feature_site, initial
from tests.attacks.server import Server
from tests.support import run_app

PRIVATE = {"privacy": "client-fixed", "clipping-norm": 0.5, "noise-multiplier": 2.0}
DEMANDS = {"require-privacy": "client-fixed, local", "max-clipping-norm": 0.5, "min-noise-multiplier": 2.0}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, 'privacy = "none": this site takes part with client-fixed or local only'),
        ({"privacy": "server-fixed"}, 'privacy = "server-fixed": this site takes part with'),
        ({**PRIVATE, "clipping-norm": 0.6}, "clipping-norm = 0.6: this site allows at most 0.5"),
        ({**PRIVATE, "noise-multiplier": 1.0}, "this run has a noise-multiplier of 1: this site wants 2 or more"),
        (
            {"privacy": "local", "clipping-norm": 0.5, "delta": 0.999999},
            "local-epsilon and delta make a noise-multiplier of 1.34: this site wants 2 or more",
        ),
        (
            {**PRIVATE, "backbone": "ViT-B-16", "dataset": "sites", "peft": "prompt", "dataset-path": ""},
            'backbone = "ViT-B-16": this site serves demo',
        ),
        ({**PRIVATE, "algorithm": "prograd"}, 'algorithm = "prograd": this site serves fedpurel, fedavg'),
    ],
)
def test_what_a_site_demands_is_met_or_it_refuses(tmp_path, changes, reason):
    site = Server(*feature_site(tmp_path, **DEMANDS, algorithms="fedpurel, fedavg", backbones="demo"))
    for ask in (site.train, site.evaluate):
        arrays, extra = {"residual": np.zeros((4, 8), np.float32)}, {"clipping_norm": 0.5}
        reply = ask(arrays, 1, changes=changes, extra=extra)
        assert reply.has_error() and all(part in (reply.error.reason or "") for part in ("PolicyError", reason))


def test_a_run_that_meets_them_is_served(tmp_path):
    site = Server(*feature_site(tmp_path, **DEMANDS))
    reply = site.train(initial(site), 1, changes=PRIVATE, extra={"clipping_norm": 0.5})
    assert reply.content["privacy"]["mod"] == "client-fixed"


@pytest.mark.parametrize("norm", [0.51, 1e9, float("nan"), float("inf"), -1.0, 0.0, "0.5", None])
def test_the_norm_that_counts_is_checked_in_the_message_that_names_it(tmp_path, norm):
    """Flower's mod clips to what the message says; a NaN clips nothing."""
    site = Server(*feature_site(tmp_path))
    extra = {} if norm is None else {"clipping_norm": norm}
    reply = site.train(initial(site), 1, changes=PRIVATE, extra=extra)
    assert reply.has_error(), "and no parameters"


def test_an_adaptive_norm_stays_below_the_site_s_own_bound(tmp_path):
    site = Server(*feature_site(tmp_path, **{"max-clipping-norm": 2.0}))
    adaptive = {**PRIVATE, "privacy": "client-adaptive"}
    assert not site.train(initial(site), 1, changes=adaptive, extra={"clipping_norm": 1.9}).has_error()
    reply = site.train(initial(site), 2, changes=adaptive, extra={"clipping_norm": 2.1})
    assert "clips to at most 2" in (reply.error.reason or "")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"algorithms": "fedpurel, fedsgd"}, "knows no fedsgd: choose among "),
        ({"require-privacy": "strong"}, "knows no strong: choose among none, server-fixed"),
        ({"max-local-epochs": 0}, "max-local-epochs = 0 in the node config"),
        ({"scores": "some"}, "scores = 'some' in the node config"),
        ({"min-learning-rate": 2.0, "max-learning-rate": 1.0}, "no run could ever be served"),
        ({"max_steps": 3}, 'unknown key "max_steps" in the node config. Did you mean "max-steps"'),
    ],
)
def test_a_node_s_own_settings_are_checked(node, message):
    from fedpurel_app.config import load_node_config

    with pytest.raises(ConfigError) as caught:
        load_node_config({"site": "a", "data": "/x", **node})
    assert message in str(caught.value)


def federation(folder, demands):
    nodes = [feature_site(folder / name, site=name, **demands.get(name, {}))[1] for name in ("a", "b", "c")]
    config, _ = feature_site(folder / "server")
    config |= {"dataset-path": str(folder / "server" / "own.npz"), "global-rounds": 2, "personal-rounds": 1}
    config |= {"fraction-train": 1.0, "out": str(folder / "run"), "evaluate-every": 1}
    run_app(server_app, client_app, 3, config, nodes=nodes)
    return RunFolder(folder / "run")


def test_one_site_that_refuses_is_left_out_with_its_reason_and_the_run_goes_on(tmp_path, caplog):
    folder = federation(tmp_path, {"b": DEMANDS})
    assert folder.summary()["outcome"] == "completed"
    assert [line["cohort"] for line in folder.rounds()[1:]] == [["a", "c"]] * 3
    assert 'is left out for now: privacy = "none": this site takes part with' in caplog.text.replace("2 problems", "")


def test_a_run_that_most_sites_refuse_ends_with_their_reasons(tmp_path):
    with pytest.raises(RunError, match=r'2 of 3 sites refuse this run: .*privacy = "none"'):
        federation(tmp_path, {"a": DEMANDS, "b": DEMANDS})


def test_sites_that_keep_their_scores_are_named_and_do_not_count_as_failures(tmp_path):
    folder = federation(tmp_path, {"b": {"scores": "none"}, "c": {"metrics": "count"}})
    summary, rounds = folder.summary(), folder.rounds()
    assert summary["outcome"] == "completed" and summary["dropped_replies"] == 0
    assert all(line["scores_withheld"] == ["b"] for line in rounds[1:])
    assert [row["site"] for row in folder.read_csv("sites.csv")] == ["a", "c"]
    assert all("loss" in line["train"] for line in rounds[1:3]), "of the two sites that tell"
