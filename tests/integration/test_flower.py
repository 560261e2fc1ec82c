"""The command under real Flower: processes, Ray, files. Minutes; run with ``pytest -m slow``."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import EndedRun, flwr_run, private_files, timeless, tiny_config

pytestmark = pytest.mark.slow
ROUNDS = (
    *("--set", "global-rounds=4", "--set", "personal-rounds=4", "--set", "local-epochs=1"),
    *("--set", "experiment-id=same"),
)


COMMAND = (sys.executable, "-m", "fedpurel_app.cli.main", "run")


def command(folder, *more):
    config = tiny_config(folder)
    keys = ("dataset", "dataset-path", "peft", "imbalance-factor", "num-sites", "evaluate-every", "batch-size")
    settings = [argument for key in keys for argument in ("--set", f"{key}={config[key]}")]
    return [*COMMAND, *settings, *ROUNDS, "--out", str(folder / "run"), *more]


def start(arguments, cwd):
    return subprocess.Popen(arguments, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, timeout=180):
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def wait_for_round(folder, number, process, timeout=120):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        if folder.rounds() and folder.rounds()[-1]["round"] >= number:
            return
        time.sleep(0.05)
    pytest.fail(f"round {number} was not reached:\n{process.communicate(timeout=60)[0]}")


def left_over(since):
    """Return processes of Flower or Ray that were started after a time, by these tests and none beside them."""
    words = ("flower-super", "flwr-simulation", "raylet", "gcs_server", "ray::")
    worker = "PYTEST_XDIST_WORKER"  # which all that a test starts inherits
    found = []
    for process in psutil.process_iter(["cmdline", "create_time", "status", "environ"]):
        line = " ".join(process.info["cmdline"] or [])
        fresh = process.info["create_time"] > since and process.info["status"] != psutil.STATUS_ZOMBIE
        ours = (process.info["environ"] or {}).get(worker) == os.environ.get(worker)
        if fresh and ours and any(word in line for word in words):
            found.append(line)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run from a neutral directory."""
    folder, since = tmp_path_factory.mktemp("whole"), time.time()
    code, output = finish(start(command(folder), folder))
    assert code == 0, output
    assert not left_over(since)
    return RunFolder(folder / "run"), output


def test_a_run_from_anywhere_prints_rounds_outcome_and_folder(whole):
    folder, output = whole
    assert folder.summary()["outcome"] == "completed" and len(private_files(folder)) >= 4
    lines = output.splitlines()
    assert sum(line.startswith(("[1/8", "[8/8")) for line in lines) == 2
    assert any("personalized, at sites" in line for line in lines) and f"run folder: {folder.path}" in lines
    assert (folder.path / "logs" / "flower.log").stat().st_size > 0


def test_a_run_in_one_process_has_the_same_bits(tmp_path, whole):
    code, output = finish(start([*command(tmp_path), "--in-process"], tmp_path))
    assert code == 0, output
    folder, (expected, _) = RunFolder(tmp_path / "run"), whole
    assert timeless(folder) == timeless(expected) and private_files(folder) == private_files(expected)
    name = "checkpoint.safetensors"
    assert (folder.path / name).read_bytes() == (expected.path / name).read_bytes()


@pytest.mark.parametrize("killed_after", [2, 6])
def test_a_killed_run_fails_loudly_and_is_resumed_bit_for_bit(tmp_path, whole, killed_after):
    """Kill -9 the process that holds server and sites, once in each phase."""
    since = time.time()
    process, folder = start(command(tmp_path), tmp_path), RunFolder(tmp_path / "run")
    wait_for_round(folder, killed_after, process)
    victims = [
        p for p in psutil.Process(process.pid).children(recursive=True) if "flwr-simulation" in " ".join(p.cmdline())
    ]
    assert victims
    for victim in victims:
        victim.kill()
    code, output = finish(process)
    assert code == 1 and "error: the run failed" in output and "--resume" in output, output
    assert EndedRun(folder.path).summary()["outcome"] == "failed"
    code, output = finish(start([*COMMAND, "--resume", str(folder.path)], tmp_path))
    assert code == 0, output
    expected, _ = whole
    assert timeless(folder) == timeless(expected)
    assert private_files(folder) == private_files(expected)
    name = "checkpoint.safetensors"
    assert (folder.path / name).read_bytes() == (expected.path / name).read_bytes()
    assert not left_over(since)


def answer(process, since):
    """Return the line that answers a signal, and the seconds that it took."""
    for line in process.stdout:
        if line.startswith("stopping"):
            return line.strip(), time.monotonic() - since
    pytest.fail("no answer")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_answered_at_once_and_ends_the_run_after_its_round(tmp_path, number):
    since = time.time()
    endless = command(tmp_path, "--set", "global-rounds=5000")
    process, folder = start(endless, tmp_path), RunFolder(tmp_path / "run")
    wait_for_round(folder, 1, process)
    pressed = time.monotonic()
    os.kill(process.pid, number)
    line, seconds = answer(process, pressed)
    assert seconds < 2, seconds
    said = int(line.removeprefix("stopping after round ").removesuffix("; press again to stop now"))
    code, output = finish(process)
    assert code == 130 and f"fedpurel run --resume {folder.path}" in output, output
    assert time.monotonic() - pressed < 30, "a round takes about a second"
    assert EndedRun(folder.path).summary()["outcome"] == "stopped"
    ended = folder.read_checkpoint()[1]["round"]
    assert said - 1 <= ended <= said + 1 and ended == folder.rounds()[-1]["round"], "no round is cut in two"
    assert f"stopped after round {ended}" in output and not folder.is_to_stop
    assert not left_over(since)


def test_the_second_press_ends_the_round_and_the_run_is_resumed_bit_for_bit(tmp_path, whole):
    since = time.time()
    process, folder = start(command(tmp_path), tmp_path), RunFolder(tmp_path / "run")
    wait_for_round(folder, 5, process)
    os.kill(process.pid, signal.SIGINT)
    answer(process, time.monotonic())
    os.kill(process.pid, signal.SIGINT)
    pressed = time.monotonic()
    code, output = finish(process)
    assert code in (0, 130) and time.monotonic() - pressed < 30, output  # a round of 5,000 would go on
    assert not left_over(since)
    if code:
        assert EndedRun(folder.path).summary()["outcome"] == "stopped" and "--resume" in output
        code, output = finish(start([*COMMAND, "--resume", str(folder.path)], tmp_path))
    assert code == 0, output
    assert timeless(folder) == timeless(whole[0]) and private_files(folder) == private_files(whole[0])


def test_kill_9_of_the_command_leaves_nothing_and_the_run_is_resumed(tmp_path, whole):
    since = time.time()
    process, folder = start(command(tmp_path), tmp_path), RunFolder(tmp_path / "run")
    wait_for_round(folder, 2, process)
    process.kill()
    process.communicate()
    code, output = finish(start([*COMMAND, "--resume", str(folder.path)], tmp_path))  # while the guard is at work
    assert code == 0, output
    assert timeless(folder) == timeless(whole[0]) and not left_over(since)


def test_a_run_that_nobody_reads_any_more_goes_on_and_says_so(tmp_path, whole):
    arguments = " ".join(f"'{part}'" for part in command(tmp_path))
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{arguments} | head -1"], cwd=tmp_path, capture_output=True, text=True
    )
    folder = RunFolder(tmp_path / "run")
    assert result.returncode == 0 and result.stdout.splitlines() == [f"fedpurel 0.1.0: run folder {folder.path}"]
    assert (
        result.stderr == f"nobody reads the output any more; the run goes on. Follow it: fedpurel watch {folder.path}\n"
    )
    assert timeless(folder) == timeless(whole[0])


def test_what_flower_ended_a_run_with_is_told(tmp_path):
    code, output = finish(start(command(tmp_path, "--gpus-per-site", "1"), tmp_path))  # more than there are
    assert code == 1 and "Flower ended the run: finished:failed: ValueError: ActorPool is empty" in output, output


def test_a_folder_for_temporary_files_with_a_long_path(tmp_path, monkeypatch):
    """As batch systems give their jobs: Ray's sockets have no room there."""
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    code, output = finish(start(command(tmp_path, "--set", "global-rounds=1"), tmp_path))
    assert code == 0, output


def test_a_run_that_fails_at_the_sites_exits_with_1_and_the_reason(tmp_path):
    state = "/proc/fedpurel"  # where nobody can make a folder, not even root
    code, output = finish(start(command(tmp_path, "--set", f"state-dir={state}"), tmp_path))
    assert code == 1 and "sites gave a usable reply" in output, output
    assert f"FileNotFoundError: [Errno 2] No such file or directory: '{state}'" in output, output
    assert "Traceback" not in output and "ray::" not in output, output
    assert EndedRun(tmp_path / "run").summary()["global"]["all"] > 0


def test_flwr_run_works_as_it_stands(tmp_path):
    """The project's own app folder under a SuperLink of its own: two nodes, one site each."""
    project = Path(__file__).parent.parent.parent
    config = f'out="{tmp_path}/run" global-rounds=1 max-per-class=12 imbalance-factor=3'
    text = flwr_run(project, tmp_path, config, "", 39477)
    folder = EndedRun(tmp_path / "run")
    assert folder.summary() and folder.summary()["outcome"] == "completed", text
    assert "2 sites are connected; this setting is made for 20." in text
    assert "num-supernodes=20 client-resources-num-cpus=1" in text
    assert json.loads((folder.path / "config.json").read_text())["code"].startswith(f"{tmp_path}/flwr"), (
        "code of the bundle"
    )
