import pytest

from fedpurel_app import cli, conductor, run_command
from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import run_tiny, tiny_config, tiny_features


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
    ],
)
def test_bad_input_has_one_clear_message_and_code_2(capsys, arguments, parts):
    code, out, err = call(capsys, "run", *arguments)
    assert code == 2 and err.startswith("error: ") and "Traceback" not in err + out
    assert all(part in err for part in parts), err


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
    folder = run_tiny(tmp_path)
    config = folder.read_json("config.json")
    config["config"]["num-sites"] = 0
    folder.write_json("config.json", config)
    (folder.path / "summary.json").unlink()
    code, _, err = call(capsys, "run", "--resume", folder.path)
    assert code == 2 and "with 5 sites" in err and "flwr run . --stream" in err


def test_relative_paths_are_the_callers(monkeypatch, tmp_path):
    tiny_features(tmp_path / "f.npz")
    monkeypatch.chdir(tmp_path)
    assert run_command._assignments(
        ["dataset-path=f.npz", "seed=3", "alpha=0.5", "peft=adapter", "share-class-counts=true"]
    ) == {
        "dataset-path": str(tmp_path / "f.npz"),
        "seed": 3,
        "alpha": 0.5,
        "peft": "adapter",
        "share-class-counts": True,
    }


def settings_of(monkeypatch, *arguments):
    """Give what would be submitted to Flower."""
    caught = {}

    def catch(self, settings, folder, sites, cpus, gpus):
        caught.update(settings=settings, folder=folder, sites=sites, cpus=cpus, gpus=gpus)
        raise KeyboardInterrupt

    monkeypatch.setattr(conductor.Conductor, "__init__", catch)
    with pytest.raises(KeyboardInterrupt):
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


def test_resuming_takes_the_settings_of_the_run(monkeypatch, tmp_path):
    folder = run_tiny(tmp_path)
    (folder.path / "summary.json").unlink()
    caught = settings_of(monkeypatch, "--resume", folder.path)
    expected = tiny_config(tmp_path) | {"resume-from": str(folder.path)}
    assert {key: caught["settings"][key] for key in expected} == expected


def test_lists(capsys):
    code, out, _ = call(capsys, "run", "--list-presets")
    assert code == 0 and "shapes" in out and "caltech-clip" in out
    code, out, _ = call(capsys, "run", "--list-keys")
    assert code == 0 and "projection-scope" in out and "Federation" in out


def test_reading_commands(capsys, tmp_path):
    folder = run_tiny(tmp_path)
    assert "completed, 6 rounds" in call(capsys, "show", folder.path)[1]
    assert "completed, 6 rounds" in call(capsys, "watch", folder.path)[1]
    assert "| fedpurel" in call(capsys, "compare", folder.path, "--out", tmp_path / "t")[1]
    assert "curves.png" in call(capsys, "plot", folder.path)[1]
    code, _, err = call(capsys, "show", tmp_path)
    assert code == 2 and "is not a run folder" in err


def test_outcomes_written_by_the_server_are_not_overwritten(tmp_path):
    folder = run_tiny(tmp_path)
    run_command._mark(folder, "failed", "too late")
    assert folder.summary()["outcome"] == "completed"
    other = RunFolder.create(tmp_path / "other")
    run_command._mark(other, "stopped", "interrupted by the user")
    assert other.summary()["outcome"] == "stopped"
