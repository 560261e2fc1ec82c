"""A run that begins where another one's global rounds ended has, bit for bit, the results of one from the beginning."""

import json

import pytest

from fedpurel_app import api
from fedpurel_app.config import load_config
from fedpurel_app.launch.choose import resumed, simulated
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.sweeps.fork import fork, trunk
from tests.support import private_files, timeless, tiny_config

TELLING = {"sites.csv", "classes.csv", "checkpoint.safetensors"}


def settings(folder, **changes):
    found = tiny_config(folder, personal_rounds=3, evaluate_every=1, experiment_id="e", **changes)
    return {key: value for key, value in found.items() if key != "out"}


@pytest.mark.parametrize(("algorithm", "key"), [("fedpurel", "private-weight"), ("ditto", "ditto-weight")])
def test_a_fork_is_a_run_from_the_beginning(tmp_path, algorithm, key):
    base = settings(tmp_path, algorithm=algorithm)
    api.run(base, out=tmp_path / "source", preset=_nothing(tmp_path))
    other = {**base, key: 0.25, "personal-rounds": 2, "private-learning-rate": 0.05}
    api.run(other, out=tmp_path / "whole", preset=_nothing(tmp_path))
    config = simulated({**other, "out": str(tmp_path / "forked")})
    fork(RunFolder(tmp_path / "source"), tmp_path / "forked", config)
    api.play(resumed(tmp_path / "forked", {}), tmp_path / "forked")
    whole, forked, source = (RunFolder(tmp_path / name) for name in ("whole", "forked", "source"))
    assert timeless(whole) == timeless(forked)
    assert timeless(source)[-1] != timeless(forked)[-1]  # or there would be nothing to see
    for name in TELLING:
        assert (whole.path / name).read_bytes() == (forked.path / name).read_bytes(), name
    assert private_files(whole) == private_files(forked) != {}
    assert (forked.summary() or {})["outcome"] == "completed"
    assert json.loads((forked.path / "config.json").read_text())["forked_from"] == str(source.path)


def _nothing(folder):
    path = folder / "empty.toml"
    path.write_text("# nothing\n")
    return str(path)


def test_runs_that_differ_in_personal_rounds_alone_share_a_trunk():
    assert trunk(load_config({"private-weight": 0.5})) == trunk(load_config({"personal-rounds": 7})) != ""
    assert trunk(load_config({"algorithm": "ditto", "ditto-weight": 0.1})) == trunk(load_config({"algorithm": "ditto"}))


@pytest.mark.parametrize("other", [{"seed": 1}, {"alpha": 0.5}, {"align-loss": "kl"}, {"algorithm": "ditto"}])
def test_other_global_rounds_are_another_trunk(other):
    assert trunk(load_config(other)) != trunk(load_config({}))


@pytest.mark.parametrize(
    "other",
    [
        {"algorithm": "fedavg"},
        {"algorithm": "copsl"},
        {"schedule": "interleaved"},
        {"validation-share": 0.2},
        {"privacy": "server-fixed"},
        {"peft": "lora", "shares": "lora-a"},
        {"global-rounds": 0, "personal-rounds": 2},
    ],
)
def test_what_cannot_be_shared_has_none(other):
    assert trunk(load_config(other)) == ""
