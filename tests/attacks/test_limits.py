"""What a server may ask of a site is bounded by the site: work, room, rounds, attempts, experiments, generations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpurel_app.config import NodeConfig, load_config, load_node_config, refusals
from fedpurel_app.config.presets import load_preset, preset_names
from tests.attacks.conftest import feature_site, initial
from tests.attacks.server import EXPERIMENT, Server, metrics


@pytest.fixture
def site(tmp_path):
    return Server(*feature_site(tmp_path))


def stored(site, experiment=EXPERIMENT):
    folder = Path(site.node["state-dir"]) / experiment / site.node["site"]
    return sorted(path.name for path in folder.glob("private-*"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"local-epochs": 10**9}, "local-epochs = 1000000000: this site allows at most 100"),
        ({"batch-size": 10**9}, "batch-size"),
        ({"learning-rate": 1e-38}, "learning-rate = 1e-38: this site allows 1e-07 to 10000"),
        ({"private-learning-rate": 1e38}, "private-learning-rate"),
        ({"peft": "lora", "lora-rank": 10**9, "dataset": "sites", "dataset-path": ""}, "lora-rank"),
        ({"peft": "visual-prompt", "prompt-tokens": 10**9, "dataset": "sites", "dataset-path": ""}, "prompt-tokens"),
        ({"augment": "views", "views": 10**9, "dataset": "sites", "dataset-path": ""}, "views"),
        ({"global-rounds": 10**9}, "rounds: this site allows at most 2000"),
    ],
)
def test_work_without_bounds_is_refused_before_anything_is_done(site, changes, reason):
    changes = {"imbalance-factor": 1.0, **changes}
    arrays = {"residual": np.zeros((4, 8), np.float32)}
    for reply in (site.train(arrays, 1, changes=changes), site.personalize(arrays, 1, 0, changes=changes)):
        assert reply.has_error() and "PolicyError" in reply.error.reason and reason in reply.error.reason
    assert not Path(site.node["state-dir"]).exists() or not stored(site)


def test_steps_of_a_visit_are_bounded(site):
    site.node["max-steps"] = 10
    arrays = initial(site)
    assert not site.train(arrays, 1).has_error()  # 45 images: 5 steps of 8
    assert "max-steps = 10" in site.train(arrays, 2, changes={"local-epochs": 3}).error.reason
    assert not site.train(arrays, 2, changes={"local-steps": 10}).has_error()
    assert "local-steps = 11: this site allows at most 10" in site.train(
        arrays, 3, changes={"local-steps": 11}
    ).error.reason  # fmt: skip
    assert not site.train(arrays, 3, changes={"local-epochs": 2, "batch-size": 9}).has_error()  # 45 images: 5 and 5
    part = {"local-epochs": 2, "batch-size": 11}  # 45 images: 4 whole steps of 11 and one of 1
    assert not site.train(arrays, 4, changes=part).has_error()
    site.node["max-steps"] = 9
    assert "max-steps = 9" in site.train(arrays, 5, changes={**part, "drop-last": False}).error.reason


def test_a_round_that_is_refused_looks_at_no_data(site, monkeypatch):
    def look(*_):
        raise AssertionError("the data were looked at")

    arrays = initial(site)
    monkeypatch.setattr("fedpurel_app.site.site_data.SiteData.rows", look)
    reply = site.train(arrays, 1_000_000)
    assert reply.has_error() and "ValueError" in reply.error.reason, "not the AssertionError of looking"


@pytest.mark.parametrize("number", [0, -1, -(2**60), 2001, 2**62])
def test_rounds_are_those_of_a_schedule(site, number):
    arrays = initial(site)
    for reply in (site.train(arrays, number), site.personalize(arrays, number, 0), site.evaluate(arrays, number)):
        assert reply.has_error()
    assert not stored(site)
    assert site.personalize(arrays, 1, 2).has_error(), "from a branch of a later round"


def test_an_attempt_far_ahead_does_not_shut_the_honest_server_out(site):
    arrays = initial(site)
    for attempt in (2**62, 201, 21, -1):
        assert site.personalize(arrays, 1, 0, attempt=attempt, token="x").has_error()
    assert not site.personalize(arrays, 1, 0).has_error()
    assert site.personalize(arrays, 2, 1, attempt=22, token="x").has_error()
    assert not site.personalize(arrays, 2, 1, attempt=2, token="u").has_error()


def test_a_fresh_branch_sets_those_that_are_there_aside(site):
    """`round = 9, private-round = 0` deleted all older generations once."""
    arrays = initial(site)
    site.personalize(arrays, 1, 0)
    site.personalize(arrays, 2, 1)
    kept = {number: site.store().load(number) for number in (1, 2)}
    site.personalize(arrays, 9, 0)
    names = stored(site)
    assert names[0] == "private-000001.safetensors.refused-passed-over-1" and "private-000009.safetensors" in names
    folder = Path(site.node["state-dir"]) / EXPERIMENT / "north"
    for number, tensors in kept.items():
        aside = folder / f"private-{number:06d}.safetensors.refused-passed-over-1"
        aside.rename(folder / f"private-{number:06d}.safetensors")  # as docs/private-state.md says
        back = site.store().load(number)
        assert all(np.array_equal(value, back[name]) for name, value in tensors.items())


def test_a_generation_goes_only_after_its_own_successor_is_there(site):
    arrays = initial(site)
    for number in (1, 2, 3):
        site.personalize(arrays, number, number - 1)
    assert stored(site) == ["private-000002.safetensors", "private-000003.safetensors"]
    # The server goes on from round 2, as after a lost checkpoint: round 3 has no successor, and is kept aside.
    site.personalize(arrays, 4, 2)
    assert stored(site) == [
        "private-000002.safetensors",
        "private-000003.safetensors.refused-passed-over-1",
        "private-000004.safetensors",
    ]
    site.personalize(arrays, 5, 4)
    assert "private-000002.safetensors" not in stored(site)


def test_experiments_are_counted(site):
    site.node["max-experiments"] = 2
    arrays = initial(site)
    asked = [site.personalize(arrays, 1, 0, experiment_id=name) for name in ("a", "b", "c")]
    assert [reply.has_error() for reply in asked] == [False, False, True]
    assert not site.personalize(arrays, 2, 1, experiment_id="a").has_error()
    assert not stored(site, "c")


def test_private_bytes_are_counted(site):
    site.node["max-private-bytes"] = 1000
    arrays = initial(site)
    replies = [site.personalize(arrays, number, number - 1) for number in range(1, 6)]
    failed = [reply.has_error() for reply in replies]
    assert failed[0] is False and failed[-1] is True
    assert stored(site), "what was there stays"


def test_paths_that_a_server_names_make_no_difference(tmp_path):
    """`state-dir = /etc/shadow` was answered in another way than `/etc/shadowx`."""
    config, node = feature_site(tmp_path)
    there, absent = tmp_path / "there", tmp_path / "absent"
    there.write_text("x")
    answers: list[Any] = []
    for path in (there, absent):
        for key in ("state-dir", "out", "resume-from", "dataset-path"):
            site = Server({**config, key: str(path)}, node)
            arrays = {"residual": np.zeros((4, 8), np.float32)}
            site.instruction = replace(site.instruction, experiment_id=f"{key}-{path.name}")
            reply = site.evaluate(arrays, 1)
            answers.append(reply.error.reason if reply.has_error() else metrics(reply))
    assert all(answer == answers[0] for answer in answers) and "num-examples" in answers[0]


@pytest.mark.parametrize("text", ["a\nb", "x" * 5000, "\x1b[2J", "\u202ereversed", "nul\x00"])
def test_settings_are_printable_lines(site, text):
    reply = site.evaluate({"residual": np.zeros((4, 8), np.float32)}, 1, changes={"template": text + "{}"})
    assert reply.has_error() and "ConfigError at the site" in reply.error.reason


@pytest.mark.parametrize("name", preset_names())
def test_every_documented_run_is_served(name):
    preset = load_preset(name)
    values = {**preset.values}
    for key in ("dataset-path",):
        values.setdefault(key, "/x" if values.get("dataset") not in (None, "shapes") else "")
    node = load_node_config({"site": "a", "data": "/x"})
    assert refusals(load_config({**values, "seed": 1}), node) == []


# Every key that bounds a run, a value below what these settings ask for, and how they ask for it.
LORA = {"peft": "lora", "dataset": "sites", "dataset-path": ""}
BOUNDS: dict[str, tuple[float, dict[str, Any]]] = {
    "max-classes": (3, {}),
    "max-local-epochs": (1, {"local-epochs": 2}),
    "max-batch-size": (7, {}),
    "max-views": (4, {"augment": "views", "views": 5, "dataset": "sites", "dataset-path": ""}),
    "max-lora-rank": (4, LORA),
    "max-prompt-tokens": (4, {**LORA, "peft": "visual-prompt"}),
    "max-context-length": (3, {**LORA, "peft": "prompt"}),
    "max-steps": (4, {}),
    "min-learning-rate": (0.2, {}),
    "max-learning-rate": (0.05, {}),
    "max-rounds": (10, {}),
    "max-clipping-norm": (0.5, {"privacy": "local"}),
    "min-noise-multiplier": (10.0, {"privacy": "local"}),
    "max-experiments": (1, {}),
    "max-private-bytes": (100, {}),
}
ELSEWHERE = {"max-attempts", "max-evaluations", "min-test-images"}  # tests of their own


def test_every_bound_of_a_node_is_tried():
    bounds = {name.replace("_", "-") for name in NodeConfig.model_fields if name.startswith(("max_", "min_"))}
    assert bounds == BOUNDS.keys() | ELSEWHERE


@pytest.mark.parametrize("key", BOUNDS)
def test_a_bound_that_is_lowered_refuses_what_was_served(site, key):
    lowest, changes = BOUNDS[key]
    arrays = {"residual": np.zeros((4, 8), np.float32)}
    if key == "max-experiments":
        site.personalize(arrays, 1, 0, experiment_id="another")
    if changes.get("dataset") != "sites":
        assert not site.personalize(arrays, 1, 0, changes=changes, experiment_id="before").has_error()
    site.node[key] = lowest
    reply = site.personalize(arrays, 1, 0, changes=changes)
    kind = "StateError" if key in ("max-experiments", "max-private-bytes") else "PolicyError"
    assert reply.has_error() and kind in reply.error.reason, reply


def test_how_often_a_site_is_scored_is_bounded_over_all_attempts(site):
    site.node["max-evaluations"] = 3
    arrays = initial(site)
    replies = [site.evaluate(arrays, number) for number in (1, 2)]
    replies += [site.evaluate(arrays, number, attempt=2, token="u") for number in (1, 2)]
    assert [reply.has_error() for reply in replies] == [False, False, False, True]
    assert "max-evaluations" in replies[-1].error.reason


# --- questions cost nothing, and strangers change nothing -------------------------------------------------------------


def test_a_question_makes_no_folder_and_binds_nobody(site):
    for number in range(12):
        reply = site.ask("query.describe", {}, attempt=2, token="x", experiment_id=f"e{number}")
        assert not reply.has_error()
    assert not list(Path(site.node["state-dir"]).glob("[!.]*"))


@pytest.mark.parametrize("kind", ["query.describe", "evaluate", "train", "train.personalize"])
@pytest.mark.parametrize("attempt", [1, 2, 20, 21, 100, 200, 201])
def test_no_message_of_a_stranger_shuts_the_honest_server_out(site, kind, attempt):
    """Whoever does not know the experiment's secret goes on with nothing, whatever number he gives himself."""
    arrays = initial(site)
    honest = {"secret": "of the honest server"}
    assert not site.personalize(arrays, 1, 0, **honest).has_error()
    site.ask(kind, arrays, round=2, private_round=1, attempt=attempt, token="evil", secret="a guess")
    assert not site.personalize(arrays, 2, 1, **honest).has_error()
    assert not site.personalize(arrays, 2, 1, attempt=2, token="resumed", **honest).has_error()


def test_a_stranger_is_not_told_the_score_of_another_server_s_branch(site):
    arrays = initial(site)
    site.personalize(arrays, 1, 0, secret="of the honest server")
    reply = site.evaluate(arrays, 2, 1, attempt=2, token="evil", secret="a guess")
    assert reply.has_error() and "is no resumption of" in reply.error.reason


@pytest.mark.parametrize(
    "how",
    [
        {"token": "x" * 65},
        {"token": "x" * 3_000_000},
        {"secret": "x" * 65},
        {"token": "a\nb"},
        {"phase": "x" * 100},
        {"experiment_id": "../x"},
        {"experiment_id": ""},
        {"simulation_dir": "x" * 5000},
    ],
)
def test_text_of_an_instruction_is_short(site, how):
    reply = site.evaluate(initial(site), 1, **how)
    assert reply.has_error() and "ValueError at the site" in reply.error.reason
    assert not list(Path(site.node["state-dir"]).rglob("attempt.json"))


@pytest.mark.parametrize("name", ["\x1b[2J\x1b[31mroot: ok\n", "x" * 3_000_000, "\u202egnp"])
def test_names_of_arrays_reach_no_log(site, name, caplog, capfd):
    reply = site.evaluate({name: np.zeros(2, np.float32)}, 1)
    out, err = capfd.readouterr()
    text = caplog.text + out + err
    assert reply.has_error() and name not in text and "\x1b[2J" not in text and len(text) < 20_000


def test_a_range_of_a_billion_blocks_is_refused_at_once():
    from fedpurel_app.core.errors import ConfigError
    from fedpurel_app.models.peft.lora import block_numbers

    with pytest.raises(ConfigError, match="this tower has blocks 0 to 11"):
        block_numbers("0-2000000000", 12)
