import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from fedpurel_app.cli import main as cli
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import RunError
from fedpurel_app.launch import choose
from fedpurel_app.launch import own_superlink as conductor
from fedpurel_app.launch import simulate as run_command
from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import EndedRun, run_tiny, tiny_config, tiny_features


@pytest.fixture(autouse=True)
def no_flower(monkeypatch):
    """Bad input must be met before Flower starts."""

    def refuse(self, watch):
        raise AssertionError("Flower was started")

    monkeypatch.setattr(conductor.Conductor, "run", refuse)


def call(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "alph=1"], ['unknown key "alph"', 'Did you mean "alpha"?']),
        (["--set", "seed=1.5"], ["seed = 1.5: should be a valid integer"]),
        (["--set", "alpha=-1"], ["alpha = -1: should be greater than 0"]),
        (["--set", "alpha"], ["write KEY=VALUE"]),
        (["--set", "alph=1", "--set", "seed=x"], ["2 problems", "alph", 'seed = "x"']),
        (["--set", "out=/x"], ["use --out DIR instead"]),
        (["--preset", "cifar"], ['no preset "cifar"', "shapes"]),
        (["--set", "dataset=features", "--set", "peft=adapter", "--set", "dataset-path=/absent.npz"], ["no such file"]),
        (["--set", "dataset=features", "--set", "dataset-path=/absent.npz"], ['peft = "prompt" needs a text tower']),
        (["--set", "dataset=cifar100", "--set", "dataset-path=/absent"], ["no such folder"]),
        (["--resume", "/absent"], ["is not a run folder"]),
        (
            ["--set", "dataset=sites", "--set", 'classes="a, b"'],
            ['dataset = "sites": every site brings its own data', "`fedpurel run --superlink CONNECTION`"],
        ),
    ],
)
def test_bad_input_has_one_clear_message_and_code_2(capsys, arguments, parts):
    code, out, err = call(capsys, "run", *arguments)
    assert code == 2 and err.startswith("error: ") and "Traceback" not in err + out
    assert all(part in err for part in parts), err


def test_a_key_is_made_once(capsys, tmp_path):
    code, out, _ = call(capsys, "keygen", tmp_path / "key")
    assert code == 0 and f'key-file="{tmp_path}/key"' in out and (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "key").read_bytes()
    code, _, err = call(capsys, "keygen", tmp_path / "key")
    assert code == 2 and "is not overwritten" in err and (tmp_path / "key").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_met_at_once(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = call(capsys, "run", "--out", tmp_path / "file" / "run")
    assert code == 2 and "cannot be written" in err


def test_a_broken_feature_file_is_met_at_once(capsys, tmp_path):
    (tmp_path / "features.npz").write_text("no archive")
    code, _, err = call(
        capsys,
        "run",
        "--set",
        "dataset=features",
        "--set",
        "peft=adapter",
        "--set",
        f"dataset-path={tmp_path}/features.npz",
    )
    assert code == 2 and "not a readable .npz" in err


def test_a_preset_without_its_file_says_which_setting_is_missing(capsys):
    code, _, err = call(capsys, "run", "--preset", "caltech-clip")
    assert code == 2 and "needs dataset-path" in err


def test_a_run_is_not_overwritten(capsys, tmp_path):
    folder = run_tiny(tmp_path)
    code, _, err = call(capsys, "run", "--out", folder.path)
    assert code == 2 and "already holds a run" in err and folder.summary()["outcome"] == "completed"


def test_resuming_with_other_settings_names_them(capsys, tmp_path):
    folder = run_tiny(tmp_path)
    (folder.path / "summary.json").unlink()
    code, _, err = call(capsys, "run", "--resume", folder.path, "--set", "momentum=0.5")
    assert code == 2 and "momentum: the run has 0.9, now asked for 0.5" in err


def test_a_complete_run_is_not_resumed(capsys, tmp_path):
    folder = run_tiny(tmp_path)
    code, _, err = call(capsys, "run", "--resume", folder.path)
    assert code == 2 and "is complete" in err


def test_a_run_of_another_federation_is_resumed_there(capsys, tmp_path):
    folder = run_tiny(tmp_path, algorithm="fedavg", seed=3)
    (folder.path / "summary.json").unlink()
    code, _, err = call(capsys, "run", "--resume", folder.path)
    assert code == 2 and "was not begun by fedpurel run" in err
    assert "flwr run . --stream --federation-config 'num-supernodes=5' --run-config '" in err
    assert 'algorithm="fedavg"' in err and "seed=3" in err and f'resume-from="{folder.path}"' in err


def test_a_folder_in_use_is_not_resumed(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("fedpurel_app.reporting.run_folder._KILLED", 0.2)  # the seconds that a killed one's guard has
    folder = stopped_run(tmp_path)
    lock = folder.lock()
    code, _, err = call(capsys, "run", "--resume", folder.path)
    assert code == 2 and "a run is going on in" in err
    assert "running: 6 rounds so far" in call(capsys, "show", folder.path)[1]
    lock.release()
    assert "cut off after 6 rounds" in call(capsys, "show", folder.path)[1]


def test_a_run_without_a_checkpoint_is_not_resumed(capsys, tmp_path):
    folder = stopped_run(tmp_path)
    (folder.path / "state.json").unlink()
    code, _, err = call(capsys, "run", "--resume", folder.path)
    assert code == 2 and "no checkpoint yet" in err


@pytest.mark.parametrize(
    ("option", "value"), [("--cpus-per-site", "0"), ("--cpus-per-site", "9999"), ("--gpus-per-site", "nan")]
)
def test_impossible_resources_are_refused(capsys, option, value):
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", option, value])
    assert caught.value.code == 2 and f"argument {option}: {value}: choose" in capsys.readouterr().err


def test_relative_paths_are_the_callers(monkeypatch, tmp_path):
    tiny_features(tmp_path / "f.npz")
    monkeypatch.chdir(tmp_path)
    assert choose.assignments(
        ["dataset-path=f.npz", "seed=3", "alpha=0.5", "peft=adapter", "share-class-counts=true"]
    ) == {
        "dataset-path": str(tmp_path / "f.npz"),
        "seed": 3,
        "alpha": 0.5,
        "peft": "adapter",
        "share-class-counts": True,
    }


def stopped_run(tmp_path, **changes):
    """A run that fedpurel run began, and that has no outcome."""
    folder = run_tiny(tmp_path, **changes)
    folder.write_json("launch.json", {"cpus-per-site": 1, "gpus-per-site": 0.0})
    folder.forget_outcome()
    return folder


class CaughtError(BaseException):
    """Instead of starting Flower."""


def settings_of(monkeypatch, *arguments):
    """Return what would be submitted to Flower."""
    caught: dict[str, Any] = {}

    def catch(self, settings, folder, sites, cpus, gpus):
        caught.update(settings=settings, folder=folder, sites=sites, cpus=cpus, gpus=gpus)
        raise CaughtError

    monkeypatch.setattr(conductor.Conductor, "__init__", catch)
    with pytest.raises(CaughtError):
        cli.main([str(argument) for argument in ("run", *arguments)])
    return caught


def test_a_preset_file_and_settings_win_in_order(monkeypatch, tmp_path):
    (tmp_path / "mine.toml").write_text("# Mine.\nseed = 4\nalpha = 0.3\n")
    caught = settings_of(monkeypatch, "--preset", tmp_path / "mine.toml", "--set", "alpha=7", "--out", tmp_path / "r")
    assert caught["settings"]["seed"] == 4 and caught["settings"]["alpha"] == 7
    assert caught["settings"]["out"] == str(tmp_path / "r") and caught["sites"] == 20


def test_the_default_is_twenty_sites(monkeypatch, tmp_path):
    caught = settings_of(monkeypatch, "--out", tmp_path / "r", "--gpus-per-site", "0.5", "--cpus-per-site", "2")
    assert (caught["sites"], caught["cpus"], caught["gpus"]) == (20, 2, 0.5)


@pytest.mark.parametrize(
    ("given", "used"),
    [(None, "local"), ("", "local"), ("local", "local"), ("auto", "auto"), ("10.0.0.1:6379", "10.0.0.1:6379")],
)
def test_ray_is_our_own_unless_the_user_names_a_cluster(monkeypatch, tmp_path, given, used):
    """Ray by itself joins whatever cluster was last started on the machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if given is not None:
        monkeypatch.setenv("RAY_ADDRESS", given)
    one = conductor.Conductor({}, tmp_path, 2, 1, 0)
    one._scratch = tmp_path
    assert one._environment["RAY_ADDRESS"] == used


def test_a_cluster_may_have_more_processors_than_this_machine(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SystemExit):
        cli.main(["run", "--cpus-per-site", "3"])
    assert "choose 1 to 2" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(SystemExit):
        cli.main(["run", "--cpus-per-site", "0"])
    assert settings_of(monkeypatch, "--cpus-per-site", "3", "--out", tmp_path / "run")["cpus"] == 3


def test_resuming_takes_the_settings_of_the_run(monkeypatch, tmp_path):
    folder = stopped_run(tmp_path)
    folder.write_json("launch.json", {"cpus-per-site": 2, "gpus-per-site": 0.0})
    caught = settings_of(monkeypatch, "--resume", folder.path, "--set", "device=cpu", "--set", "console=flower")
    expected = tiny_config(tmp_path) | {"resume-from": str(folder.path), "device": "cpu", "console": "flower"}
    assert {key: caught["settings"][key] for key in expected} == expected
    assert caught["cpus"] == 2, "the number of threads decides the last bits: it is that of the run"


def test_a_resumed_run_never_shows_the_outcome_of_the_one_before(monkeypatch, capsys, tmp_path):
    folder = stopped_run(tmp_path)
    folder.write_json("summary.json", {"outcome": "stopped", "error": "interrupted by the user"})

    def fail(self, watch):
        raise RunError("Flower's SuperLink did not start")

    monkeypatch.setattr(conductor.Conductor, "run", fail)
    code, _, err = call(capsys, "run", "--resume", folder.path)
    assert code == 1 and "SuperLink did not start" in err
    assert folder.summary()["outcome"] == "failed" and "SuperLink did not start" in folder.summary()["error"]


def test_an_interrupted_run_has_a_whole_summary(monkeypatch, capsys, tmp_path):
    def interrupt(self, watch):
        raise KeyboardInterrupt

    folder = stopped_run(tmp_path)
    whole = set(run_tiny(tmp_path, out=str(tmp_path / "other")).summary())
    monkeypatch.setattr(conductor.Conductor, "run", interrupt)
    code, _, err = call(capsys, "run", "--resume", folder.path)
    assert code == 130 and f"Continue with: fedpurel run --resume {folder.path}" in err
    assert set(folder.summary()) == whole and folder.summary()["outcome"] == "stopped"
    code, _, err = call(capsys, "run", "--out", tmp_path / "new")
    assert code == 130 and "start it anew" in err


def test_paths_in_a_preset_are_relative_to_it(monkeypatch, tmp_path):
    tiny_features(tmp_path / "f.npz")
    (tmp_path / "mine.toml").write_text('dataset = "features"\ndataset-path = "f.npz"\npeft = "adapter"\n')
    monkeypatch.chdir("/")
    caught = settings_of(monkeypatch, "--preset", tmp_path / "mine.toml", "--out", tmp_path / "run")
    assert caught["settings"]["dataset-path"] == str(tmp_path / "f.npz")


def test_a_preset_names_no_run_folder(capsys, tmp_path):
    (tmp_path / "mine.toml").write_text('resume-from = "/somewhere"\n')
    code, _, err = call(capsys, "run", "--preset", tmp_path / "mine.toml")
    assert code == 2 and "resume-from belong on the command line" in err
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    assert "not a readable TOML file" in call(capsys, "run", "--preset", tmp_path / "mine.toml")[2]


def test_a_tracker_that_is_not_installed_is_met_at_once(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    code, _, err = call(capsys, "run", "--set", "tracker=mlflow", "--out", tmp_path / "run")
    assert code == 2 and 'pip install "fedpurel-app[mlflow]"' in err and not (tmp_path / "run").exists()


def test_lists(capsys):
    code, out, _ = call(capsys, "run", "--list-presets")
    assert code == 0 and "shapes" in out and "caltech-clip" in out
    code, out, _ = call(capsys, "run", "--list-keys")
    assert code == 0 and "projection-scope" in out and "Federation" in out


def test_presets_are_listed_by_group_the_default_first(capsys):
    lines = call(capsys, "run", "--list-presets")[1].splitlines()
    assert lines[0].split()[0] == "shapes" and lines[0].endswith("(default)") and lines[1].split()[0] == "caltech-clip"
    groups = [line for line in lines if line.endswith("it") and ":" in line]
    assert [group.partition(":")[0] for group in groups] == ["paper/", "reference/"]


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["run", "--preset", "cifar100"], 'Did you mean "paper/cifar100-adapter" or "paper/cifar100-lora" or'),
        (["run", "--preset", "shapse"], 'Did you mean "shapes"?'),
        (["run", "--seed", "1"], "Did you mean --set seed=VALUE?"),
        (["run", "--global-rounds=3"], "Did you mean --set global-rounds=VALUE?"),
    ],
)
def test_what_was_meant_is_guessed(capsys, arguments, advice):
    try:
        code: object = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and advice in capsys.readouterr().err


def test_help_of_every_command_has_a_sentence_and_an_example(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    names = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert {"run", "show", "compare", "plot", "predict", "export", "doctor", "keygen"} <= set(names)
    for name in names:
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        text = capsys.readouterr().out
        assert re.search(r"\n\n[A-Z][^\n]+", text) and f"example:\n  fedpurel {name} " in text


def test_plot_of_several_runs_asks_which_picture(capsys, tmp_path):
    code, _, err = call(capsys, "plot", tmp_path, tmp_path)
    assert code == 2 and "--across {balancedness,sweep,convergence,tail}" in err


def test_reading_commands(capsys, tmp_path):
    folder = run_tiny(tmp_path)
    assert "completed, 6 rounds" in call(capsys, "show", folder.path)[1]
    assert "completed, 6 rounds" in call(capsys, "watch", folder.path)[1]
    assert "GM at sites" in (table := call(capsys, "compare", folder.path)[1]) and "fedpurel" in table
    assert "curves.png" in call(capsys, "plot", folder.path)[1]
    code, _, err = call(capsys, "show", tmp_path)
    assert code == 2 and "is not a run folder" in err


def test_outcomes_written_by_the_server_are_not_overwritten(tmp_path):
    folder = run_tiny(tmp_path)
    config = load_config(tiny_config(tmp_path))
    run_command.mark(folder, config, "failed", "too late")
    assert folder.summary()["outcome"] == "completed"
    other = RunFolder.create(tmp_path / "other")
    run_command.mark(other, config, "stopped", "interrupted by the user")
    assert EndedRun(other.path).summary()["outcome"] == "stopped"


def test_a_file_in_the_place_of_the_folder_of_private_branches_is_refused_before_flower_starts(tmp_path, capsys):
    assert cli.main(["run", "--set", f"state-dir={__file__}", "--out", str(tmp_path / "run")]) == 2
    assert "is a file: give a folder" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [["show"], ["compare"], ["plot"], ["run", "--resume"]])
def test_files_of_another_user_are_named_without_a_traceback(monkeypatch, capsys, tmp_path, command):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refuse)
    assert cli.main([*command, str(tmp_path)]) == 2
    assert f"{tmp_path / 'config.json'} is not open to this user" in capsys.readouterr().err
