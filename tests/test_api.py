"""``fedpurel_app.run``: an experiment in this process, and what it gives back."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
import torch

import fedpurel_app
from fedpurel_app.cli import main as cli
from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import EndedRun, private_files, run_tiny, timeless, tiny_config


def settings(folder, **changes):
    """Settings of a run that takes a second, without a place."""
    return {key: value for key, value in tiny_config(folder, **changes).items() if key != "out"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return fedpurel_app.run(settings(folder, experiment_id="e"), out=folder / "run")


def test_a_run_is_its_folder(run):
    assert run.summary["outcome"] == "completed" and run.rounds[-1]["round"] == run.summary["rounds"] == 6
    pictures = run.plot()
    assert {"curves", "classes"} <= pictures.keys() and all(path.suffix == ".png" for path in pictures.values())


def test_its_models_predict(run):
    features = torch.randn(4, 8)
    (site, *_) = sorted(name for name, private in sites(run).items() if private)
    common, own = run.model(), run.model(site)
    assert common.logits(features).shape == (4, 6) and not torch.equal(common.logits(features), own.logits(features))
    with pytest.raises(StateError, match='no site "nowhere"'):
        run.model("nowhere")


def sites(run):
    return {row["site"]: row["has_private_branch"] == "1" for row in RunFolder(run.path).read_csv("sites.csv")}


def test_its_bits_are_those_of_the_apps_with_one_thread(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    other = run_tiny(tmp_path, experiment_id="e")
    assert timeless(RunFolder(run.path)) == timeless(other) and private_files(RunFolder(run.path)) == private_files(
        other
    )


def test_threads_are_put_back(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    fedpurel_app.run(settings(tmp_path, global_rounds=1, personal_rounds=0), out=tmp_path / "run")
    assert torch.get_num_threads() == before and os.environ["OMP_NUM_THREADS"] == "2"


def test_a_presets_options_give_way_to_another_method_and_a_users_do_not(tmp_path):
    preset = tmp_path / "own.toml"
    preset.write_text("# Own.\nprivate-weight = 0.5\nglobal-rounds = 1\nnum-sites = 5\n")
    given = settings(tmp_path, algorithm="fedavg")
    ran = fedpurel_app.run({**given, "global-rounds": 1}, preset=str(preset), out=tmp_path / "run")
    assert ran.summary["rounds"] == 1
    with pytest.raises(ConfigError, match="private-weight = 0.5: it belongs to"):
        fedpurel_app.run({**given, "private-weight": 0.5}, preset=str(preset), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_bad_settings_are_named_all_at_once_and_make_no_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)algorithm = \"dito\".*Did you mean \"ditto\".*alpha = -1"):
        fedpurel_app.run({"algorithm": "dito", "alpha": -1}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_goes_on_from_its_last_round(tmp_path, monkeypatch):
    from fedpurel_app.site.site import Site

    asked, train = settings(tmp_path, experiment_id="e"), Site.train
    whole = fedpurel_app.run(asked, out=tmp_path / "whole")

    def stop(self, phase, arrays, instruction, *more, **named):
        if instruction.round == 5:
            raise KeyboardInterrupt
        return train(self, phase, arrays, instruction, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Site, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            fedpurel_app.run(asked, out=tmp_path / "cut")
    folder = EndedRun(tmp_path / "cut")
    assert folder.summary()["outcome"] == "stopped" and not folder.is_running
    resumed = fedpurel_app.run(resume=tmp_path / "cut")
    assert resumed.summary["outcome"] == "completed"
    left, right = ((run.path / "checkpoint.safetensors").read_bytes() for run in (whole, resumed))
    assert left == right and private_files(folder) == private_files(RunFolder(whole.path))
    with pytest.raises(StateError, match="is complete"):
        fedpurel_app.run(resume=tmp_path / "cut")


def test_a_folder_that_holds_a_run_is_left_as_it_is(run):
    launch = run.path / "launch.json"
    launch.write_text(json.dumps({"schema": 1, "cpus-per-site": 4, "gpus-per-site": 0.25}))
    with pytest.raises(StateError, match="already holds a run"):
        fedpurel_app.run(settings(run.path.parent), out=run.path, threads=2)
    assert json.loads(launch.read_text())["cpus-per-site"] == 4
    launch.write_text(json.dumps({"schema": 1, "cpus-per-site": 1, "gpus-per-site": 0.25}))


def test_a_run_goes_on_with_the_threads_and_the_gpus_that_it_was_begun_with(tmp_path, monkeypatch):
    from fedpurel_app.site.site import Site

    asked, train = settings(tmp_path, global_rounds=2, personal_rounds=0), Site.train

    def stop(self, phase, arrays, instruction, *more, **named):
        if instruction.round == 2:
            raise KeyboardInterrupt
        return train(self, phase, arrays, instruction, *more, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Site, "train", stop)
        fedpurel_app.run(asked, out=tmp_path / "cut", threads=2)
    folder, seen = RunFolder(tmp_path / "cut"), []
    folder.write_launch(2, 0.25)

    def watched(self, *rest):
        seen.append(torch.get_num_threads())
        return train(self, *rest)

    monkeypatch.setattr(Site, "train", watched)
    fedpurel_app.run(resume=folder.path)
    assert set(seen) == {2} and folder.launch()["gpus-per-site"] == 0.25


def test_the_time_of_a_run_is_not_that_of_its_process(run):
    assert run.rounds[0]["seconds"]["start_up"] < 30 and psutil.Process().create_time() < time.time() - 1
    later = fedpurel_app.run(resume=None, settings=settings(run.path.parent, global_rounds=1, personal_rounds=0),
                             out=run.path.parent / "later")  # fmt: skip
    assert later.rounds[0]["seconds"]["start_up"] < 5


def test_the_command_line_does_it_as_well(tmp_path, capsys):
    pairs = [text for key, value in settings(tmp_path).items() for text in ("--set", f"{key}={value}")]
    assert cli.main(["run", "--in-process", "--out", str(tmp_path / "cli"), *pairs]) == 0
    out = capsys.readouterr().out
    assert "all sites in this process" in out and "global model" in out
    assert cli.main(["run", "--in-process", "--superlink", "x"]) == 2
    assert "drop one of them" in capsys.readouterr().err


def test_the_package_imports_nothing_before_it_is_asked():
    code = "import sys, fedpurel_app; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "flwr", "numpy", "pydantic"} & set(loaded)
    assert fedpurel_app.FedPuReL.__module__ == "fedpurel_app.strategies.fedpurel"
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        fedpurel_app.walk  # type: ignore[attr-defined]  # noqa: B018
