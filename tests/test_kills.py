"""Ten times ``kill -9`` in one run of both phases, and resumed each time."""

import signal
import subprocess
import sys

import pytest

from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import private_files, timeless

KILLS = [
    (0, "checkpoint"),
    (2, "work"),
    (5, "checkpoint"),
    (8, "work"),
    (10, "checkpoint"),
    (11, "work"),
    (12, "checkpoint"),
    (15, "work"),
    (18, "checkpoint"),
    (20, "work"),
]
TIMES = {"seconds"}


def play(folder, number=0, when="never"):
    command = [sys.executable, "-m", "tests.killing", str(folder), str(number), when]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def outcome(folder):
    """Return all that a run leaves but its times, and what tells its attempts apart."""
    summary = {key: value for key, value in folder.summary().items() if key not in TIMES}
    files = ("checkpoint.safetensors", "checkpoint-best.safetensors", "sites.csv", "validation.csv", "classes.csv")
    content = {name: (folder.path / name).read_bytes() for name in (*files, "partition.json")}
    return summary, timeless(folder), content, private_files(folder)


@pytest.mark.slow
def test_ten_kills_leave_no_trace(tmp_path):
    assert play(tmp_path / "whole").returncode == 0
    for number, when in KILLS:
        died = play(tmp_path / "killed", number, when)
        assert died.returncode == -signal.SIGKILL, died.stderr
        last = number if when == "checkpoint" else number - 1
        assert RunFolder(tmp_path / "killed" / "run").read_checkpoint()[1]["round"] == last
    last = play(tmp_path / "killed")
    assert last.returncode == 0, last.stderr
    whole, killed = (RunFolder(tmp_path / name / "run") for name in ("whole", "killed"))
    assert killed.read_json("state.json")["attempt"] == 1 + len(KILLS)
    for one, other in zip(outcome(killed), outcome(whole), strict=True):
        assert one == other
