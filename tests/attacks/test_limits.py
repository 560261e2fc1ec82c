"""What a server may ask of a site is bounded by the site: work, room, rounds, attempts, experiments, generations."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedpurel_app.config import NodeConfig, load_config, load_node_config, refusals
from fedpurel_app.presets import load_preset, preset_names
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


@pytest.mark.parametrize("number", [0, -1, -(2**60), 2001, 2**62])
def test_rounds_are_those_of_a_schedule(site, number):
    arrays = initial(site)
    for reply in (site.train(arrays, number), site.personalize(arrays, number, 0), site.evaluate(arrays, number)):
        assert reply.has_error()
    assert not stored(site)
    assert site.personalize(arrays, 1, 2).has_error(), "from a branch of a later round"


def test_an_attempt_far_ahead_does_not_shut_the_honest_server_out(site):
    arrays = initial(site)
    for attempt in (2**62, 102, -1):
        assert site.personalize(arrays, 1, 0, attempt=attempt, token="x").has_error()
    assert not site.personalize(arrays, 1, 0).has_error()
    assert site.personalize(arrays, 2, 1, attempt=101, token="x").has_error(), "max-attempts"
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
    answers = []
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


def test_every_bound_of_a_node_is_one(tmp_path):
    """No key without effect: each of the numbers that bound a run is met by some refusal above or here."""
    bounds = {name for name in NodeConfig.model_fields if name.startswith(("max_", "min_"))}
    source = Path(__file__).read_text() + (Path(__file__).parent / "test_policy.py").read_text()
    source += (Path(__file__).parent / "test_class_counts.py").read_text()
    hidden = {"max_context_length"}  # the run's own bound is as low
    lower = {"max_local_epochs": "local-epochs", "max_batch_size": "batch-size", "max_views": "views"}
    lower |= {"max_lora_rank": "lora-rank", "max_prompt_tokens": "prompt-tokens", "max_rounds": "global-rounds"}
    lower |= {"min_learning_rate": "1e-38", "max_learning_rate": "1e38", "max_attempts": '"max-attempts"'}
    for name in bounds - hidden:
        assert lower.get(name, name.replace("_", "-")) in source or name in source, name
