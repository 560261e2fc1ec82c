"""Bad input is met before Flower starts, by fedpurel run and doctor alike; and terminals and notebooks as they are."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fedpurel_app.cli import main as cli
from fedpurel_app.core.errors import RunError
from fedpurel_app.launch import own_superlink as conductor
from tests.support import EndedRun, run_tiny, tiny_features, write_images


@pytest.fixture(autouse=True)
def no_flower(monkeypatch):
    """Bad input must be met before Flower starts."""

    def refuse(self, *arguments):
        raise AssertionError("Flower was started")

    monkeypatch.setattr(conductor.Conductor, "run", refuse)


@pytest.fixture
def data(tmp_path):
    for part in ("train", "test"):
        write_images(tmp_path / "data" / part, {"cat": range(3), "dog": range(10, 13)})
    return tmp_path / "data"


def call(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def settings(data):
    return ["--set", "dataset=imagefolder", "--set", f"dataset-path={data}", "--set", "imbalance-factor=1"]


def test_all_images_that_cannot_be_read_are_named_before_flower_starts(data, tmp_path, capsys):
    (data / "train" / "cat" / "empty.jpg").touch()
    Image.new("1", (20_000, 20_000)).save(data / "test" / "dog" / "bomb.png")
    code, out, err = call(capsys, "run", *settings(data), "--out", tmp_path / "run")
    assert code == 2 and "2 of 14 images cannot be read" in err and not (tmp_path / "run").exists()
    assert f"{data}/train/cat/empty.jpg cannot be read as an image (it is empty)" in err
    assert f"{data}/test/dog/bomb.png is too large" in err and "400000000 pixels" in err
    code, out, _ = call(capsys, "doctor", *settings(data))
    assert code == 1 and "empty.jpg" in out and "bomb.png" in out and "2 of 14" in out


def test_what_is_left_out_is_said_once_by_run_and_doctor(data, tmp_path, capsys):
    (data / "train" / "cat" / "x.heic").write_bytes(b"x")
    said = "train/: 1 files without an image's ending are left out: 1 .heic"
    code, out, _ = call(capsys, "doctor", *settings(data))
    assert code == 0 and out.count(said) == 1
    with pytest.raises(AssertionError, match="Flower was started"):
        cli.main(["run", *settings(data), "--out", str(tmp_path / "run")])
    assert capsys.readouterr().err.count(said) == 1


def test_what_is_left_out_stands_in_the_log_of_a_run(tmp_path, caplog):
    with np.load(tiny_features(tmp_path / "f.npz")) as file:
        arrays = dict(file)
    np.savez(tmp_path / "features.npz", **{**arrays, "logit_scale": np.float32(4.6052)})
    with caplog.at_level("INFO", "flwr.fedpurel"):
        run_tiny(tmp_path, global_rounds=1, personal_rounds=0)
    assert caplog.text.count("logit_scale = 4.6052 looks like a logarithm") == 1


def test_a_run_in_which_nothing_was_trained_is_failed(tmp_path, monkeypatch):
    """Also one of fewer rounds than those in a row that end a run."""

    def fail(self, *arguments, **named):
        raise RuntimeError("no luck")

    monkeypatch.setattr("fedpurel_app.site.site.Site.train", fail)
    with pytest.raises(
        RunError, match="(?s)the global model is that of before.*no luck.*no private branch was trained.*no luck"
    ):
        run_tiny(tmp_path, global_rounds=1, personal_rounds=1)
    summary = EndedRun(tmp_path / "run").summary()
    assert summary["outcome"] == "failed" and "no luck" in summary["error"]


def test_a_phase_in_which_nothing_was_trained_is_told_from_the_other(tmp_path, monkeypatch):
    """The global model is there and is scored, and yet what the run was for is not."""

    def fail(self, *arguments, **named):
        raise RuntimeError("no luck")

    monkeypatch.setattr("fedpurel_app.site.site.Site._train_private", fail)
    with pytest.raises(RunError, match="no private branch was trained"):
        run_tiny(tmp_path, global_rounds=1, personal_rounds=1)
    summary = EndedRun(tmp_path / "run").summary()
    assert "before training" not in summary["error"] and summary["global"]["all"] > 0


# --- terminals and notebooks ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    # Sites that tell totals alone: numbers by class do not exist, and a dash stands for them.
    return run_tiny(folder, global_rounds=1, personal_rounds=0, evaluate_every=1, share_class_counts=False).path


def command(*arguments, **environment):
    script = "import sys; from fedpurel_app.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return python(script, *arguments, **environment)


def python(script, *arguments, **environment):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True)


@pytest.fixture(scope="module")
def in_utf8(run):
    return command("show", run, PYTHONIOENCODING="utf-8").stdout.decode()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict"])
@pytest.mark.slow
def test_a_terminal_that_lacks_a_dash_gets_a_plain_one(run, in_utf8, tmp_path, encoding):
    compared, shown = (
        command(*arguments, PYTHONIOENCODING=encoding)
        for arguments in (("compare", run, "--out", tmp_path / "table"), ("show", run))
    )
    for result in (compared, shown):
        assert result.returncode == 0 and b"Traceback" not in result.stderr, result.stderr
    assert "–" in in_utf8 and shown.stdout.decode("ascii") == in_utf8.replace("–", "-")


@pytest.mark.slow
def test_pictures_are_drawn_whatever_backend_a_notebook_asks_for(run, tmp_path):
    calls = [["plot", str(run)], ["plot", str(run), "--across", "convergence", "--out", str(tmp_path / "picture")]]
    script = f"from fedpurel_app.cli.main import main; assert not any([main(one) for one in {calls}])"
    result = python(script, MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "picture.png").stat().st_size and (run / "plots" / "curves.png").stat().st_size


def test_a_prediction_of_an_image_that_is_too_large_is_not_said_to_be_damaged(tmp_path, data, capsys):
    config = {"dataset": "imagefolder", "dataset_path": str(data), "peft": "adapter", "imbalance_factor": 1}
    folder = run_tiny(tmp_path, num_sites=2, global_rounds=1, personal_rounds=0, **config)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    code, _, err = call(capsys, "predict", "--run", folder.path, tmp_path / "bomb.png")
    assert code == 2 and "bomb.png is too large to be read" in err and "400000000" in err and "damaged" not in err
    grey = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "16.png")
    Image.fromarray((grey >> 8).astype(np.uint8)).save(tmp_path / "8.png")
    code, out, _ = call(capsys, "predict", "--run", folder.path, "--json", tmp_path / "16.png", tmp_path / "8.png")
    deep, plain = json.loads(out)["predictions"]
    assert code == 0 and deep["classes"] == plain["classes"]
