"""A sweep as a command: what it runs, skips, resumes and survives."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from fedpurel_app.cli.main import main
from fedpurel_app.reporting.claim import Claim
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.sweeps.file import load_sweep
from fedpurel_app.sweeps.plan import make_plan
from fedpurel_app.sweeps.play import Player
from fedpurel_app.sweeps.room import Room
from fedpurel_app.sweeps.workers import Worker
from tests.support import timeless
from tests.sweeps.writing import METHODS, write_sweep

COMMAND = [sys.executable, "-m", "fedpurel_app.cli.main", "sweep"]


def runs(folder):
    return {path.name: RunFolder(path) for path in sorted((folder / "runs").iterdir())}


def started(path, out, *more):
    command = [*COMMAND, str(path), "--out", str(out), "--jobs", "2", *more]
    with (path.parent / "said.txt").open("w") as said:
        environment = {**os.environ, "SWEEP_UNDER_TEST": str(path)}  # which its workers are known by
        return subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)


def said(path):
    return (path.parent / "said.txt").read_text()


def rounds_played(out):
    return sum(len((path / "rounds.jsonl").read_text().splitlines()) for path in out.glob("runs/*/") if
               (path / "rounds.jsonl").exists())  # fmt: skip


def wait_for_rounds(process, out, number):
    deadline = time.monotonic() + 120
    while rounds_played(out) < number:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_everything_is_run_once_and_a_failure_stops_nothing_else(tmp_path, capfd):
    bad = "" if torch.cuda.is_available() else 'Bad = { algorithm = "fedavg", learning-rate = 0.7, device = "cuda" }\n'
    path = write_sweep(tmp_path, METHODS + '"FedAvg again" = { algorithm = "fedavg" }\n' + bad, seeds="1")
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--jobs", "2"]) == (1 if bad else 0)
    out, err = capfd.readouterr()
    assert "1 of them the same as another" in out
    assert ("FedAvg, seed 1: GM" in out) and ("FedPuReL, seed 1: GM" in out)
    if bad:
        assert "2 of 3 runs are complete" in out and "failed: Bad, seed 1" in err and "cuda" in err
    complete = [name for name, run in runs(tmp_path / "out").items() if run.summary()["outcome"] == "completed"]
    assert len(complete) == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/runs/*/rounds.jsonl")}
    main(["sweep", str(path), "--out", str(tmp_path / "out")])
    assert "2 of them from before" in capfd.readouterr().out
    assert all(path.stat().st_mtime_ns == before[path] for path in before if path.parent.name in complete)


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    path = write_sweep(tmp_path)
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "4 cells" in capsys.readouterr().out and not (tmp_path / "out").exists()


def put(name, old, new):
    def change(run):
        (run / name).write_text((run / name).read_text().replace(old, new) if old else new)

    return change


def stopped_and_damaged(run):
    put("summary.json", '"completed"', '"stopped"')(run)
    put("state.json", "", "{")(run)


def test_runs_that_cannot_be_used_are_named_and_the_others_go_on(tmp_path, capsys):
    more = '[methods]\nA = { algorithm = "fedavg" }\n'
    path = write_sweep(tmp_path, more, seeds='"1-4"', global_rounds=1)
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 0
    by_seed = {run.read_json("config.json")["config"]["seed"]: run.path for run in runs(tmp_path / "out").values()}
    put("config.json", '"seed": 1', '"seed": 7')(by_seed[1])
    put("config.json", "", "{")(by_seed[2])
    put("summary.json", "", "{")(by_seed[3])
    stopped_and_damaged(by_seed[4])
    write_sweep(tmp_path, more, seeds='"1-5"', global_rounds=1)
    capsys.readouterr()
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert "1 of 5 runs are complete, 0 of them from before" in told.out and "A, seed 5: GM" in told.out
    said = [line for line in told.err.splitlines() if line.startswith("failed: ")]
    assert [line[8:17] for line in said] == [f"A, seed {seed}" for seed in (1, 2, 3, 4)]
    for line, what in zip(said, ("other settings", "config.json: ", "summary.json: ", "state.json: "), strict=True):
        assert what in line


def test_data_that_cannot_be_read_fail_their_own_runs(tmp_path, capsys):
    more = '[methods]\nA = { algorithm = "zero-shot" }\n[data]\n'
    bad = 'bad = { dataset-path = "bad.npz" }\n'
    path = write_sweep(tmp_path, more + "good = {}\n" + bad, seeds="1")
    (tmp_path / "bad.npz").write_text("no features")
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert "1 of 2 runs are complete" in told.out
    assert "failed: A, bad, seed 1" in told.err and "bad.npz" in told.err and "A, good" not in told.err
    write_sweep(tmp_path, more + bad, seeds="1")
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2  # none of them can start


def test_a_second_sweep_in_the_folder_is_refused(tmp_path, capsys):
    path = write_sweep(tmp_path)
    (tmp_path / "out").mkdir()
    claim = Claim(tmp_path / "out", "sweep")
    claim.acquire()
    try:
        assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    finally:
        claim.release()
    assert f"process {os.getpid()}" in capsys.readouterr().err
    assert not (tmp_path / "out" / "plan.json").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path, capsys):
    path = write_sweep(tmp_path)
    (tmp_path / "file").touch()
    assert main(["sweep", str(path), "--out", str(tmp_path / "file")]) == 2
    assert main(["sweep", str(path), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_the_file_may_lie_in_the_folder_of_its_sweep(tmp_path):
    path = write_sweep(tmp_path / "out", '[methods]\nA = { algorithm = "zero-shot" }\n', seeds="1")
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 0
    assert main(["table", str(tmp_path / "out")]) == 0


def test_other_data_at_the_same_path_are_met(tmp_path, capfd):
    path = write_sweep(tmp_path, '[methods]\nA = { algorithm = "zero-shot" }\n', seeds="1")
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 0
    with np.load(tmp_path / "features.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "features.npz", **{**arrays, "test_features": arrays["test_features"] + 1})
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 1
    assert "was made with other data" in capfd.readouterr().err


def test_a_file_is_not_tuned_by_half(tmp_path, capfd):
    if torch.cuda.is_available():
        pytest.skip("the failing run asks for a GPU, and there is one")
    tune = "[tune]\nseeds = 100\n[tune.grid]\nlearning-rate = [0.1, 0.3]\n"
    path = write_sweep(tmp_path, '[methods]\nA = { algorithm = "fedavg", device = "cuda" }\n' + tune)
    text = path.read_text()
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--tune"]) == 1
    assert path.read_text() == text and "is as it was" in capfd.readouterr().err


def player_of(path, folder):
    plan = make_plan(load_sweep(path))
    data = dict.fromkeys(plan.runs, "")
    return Player(folder, plan.runs, data, Room(1, 1, False), 1, print), [cell.run for cell in plan.cells]


def test_a_run_that_has_no_folder_yet_can_be_asked_to_stop(tmp_path):
    player, (name, *_) = player_of(write_sweep(tmp_path), tmp_path / "runs")
    player._going[Future()] = name
    player._ask_to_stop()
    assert RunFolder(tmp_path / "runs" / name).is_to_stop


def test_the_wish_to_stop_does_not_outlive_the_sweep_that_had_it(tmp_path):
    player, (name, *_) = player_of(write_sweep(tmp_path), tmp_path / "runs")
    run = RunFolder(tmp_path / "runs" / name)
    run.path.mkdir(parents=True)
    (run.path / "state.json").write_text("{}")
    run.wish_to_stop()
    assert player._request(name)["resume"]
    assert not run.is_to_stop


def test_a_run_without_personal_rounds_begins_at_its_beginning(tmp_path):
    more = '[methods]\nA = { algorithm = "fedpurel" }\nB = { algorithm = "fedpurel", personal-rounds = 0 }\n'
    path = write_sweep(tmp_path, more, seeds="1")
    player, (with_personal, without) = player_of(path, tmp_path / "runs")
    assert player._trunks[with_personal] == player._trunks[without] != ""
    player._complete = {with_personal}
    assert player._with_same_trunk(without) is None
    player._complete = {without}
    assert player._with_same_trunk(with_personal) == without


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path):
    more = METHODS + '"lambda 0.5" = { algorithm = "fedpurel", private-weight = 0.5 }\n'
    path = write_sweep(tmp_path, more, global_rounds=12, personal_rounds=4)
    assert started(path, tmp_path / "whole").wait(300) == 0
    process = started(path, tmp_path / "out")
    wait_for_rounds(process, tmp_path / "out", 25)
    assert _workers(path)
    process.kill()
    process.wait()
    assert_workers_end(path)
    left = rounds_played(tmp_path / "out")
    again = started(path, tmp_path / "out")
    assert again.wait(300) == 0, said(path)
    whole, killed = runs(tmp_path / "whole"), runs(tmp_path / "out")
    assert whole.keys() == killed.keys() and len(whole) == 6
    assert left < rounds_played(tmp_path / "out")
    for name, run in whole.items():
        assert timeless(run) == timeless(killed[name]), name


@pytest.mark.slow
def test_ctrl_c_lets_runs_end_with_their_round(tmp_path):
    path = write_sweep(tmp_path, global_rounds=80, personal_rounds=0)
    process = started(path, tmp_path / "out")
    wait_for_rounds(process, tmp_path / "out", 20)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "stopped" in said(path) and not _workers(path)
    outcomes = {run.summary()["outcome"] for run in runs(tmp_path / "out").values()}
    assert outcomes == {"stopped"}
    again = started(path, tmp_path / "out")
    assert again.wait(300) == 0, said(path)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_all_at_once_and_the_sweep_goes_on_from_what_is_saved(tmp_path):
    path = write_sweep(tmp_path, global_rounds=80, personal_rounds=0)
    process = started(path, tmp_path / "out")
    wait_for_rounds(process, tmp_path / "out", 20)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)  # two signals that come together are one
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert_workers_end(path)
    left = rounds_played(tmp_path / "out")
    again = started(path, tmp_path / "out")
    assert again.wait(300) == 0, said(path)
    assert left < rounds_played(tmp_path / "out")


def assert_workers_end(path):
    deadline = time.monotonic() + 30
    while _workers(path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _workers(path)


def _workers(path):
    """List the processes of a sweep's runs: others may go on at this machine."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "fedpurel_app.cli.worker" in process.cmdline():
                found += [process] if process.environ().get("SWEEP_UNDER_TEST") == str(path) else []
    return found


def test_a_process_that_dies_has_failed_one_run_alone(tmp_path):
    worker = Worker(os.environ, tmp_path / "log")
    process = worker._started()
    process.send_signal(signal.SIGKILL)
    answer = worker.run({"folder": str(tmp_path / "run"), "settings": {}, "threads": 1})
    assert answer.outcome == "failed" and "signal 9" in answer.error
    answer = worker.run({"folder": str(tmp_path / "run"), "settings": {"algorithm": "fedvag"}, "threads": 1})
    assert answer.outcome == "failed" and 'Did you mean "fedavg"' in answer.error and answer.memory > 0
    worker.close()


@pytest.mark.slow
def test_tuning_writes_the_best_value_of_each_method_into_the_file(tmp_path, capsys):
    tune = '[tune]\nseeds = "100-101"\n[tune.grid]\nlearning-rate = [0.0001, 0.3]\n'
    fixed = 'Fixed = { algorithm = "fedprox", learning-rate = 0.1 }\n"Zero-shot" = { algorithm = "zero-shot" }\n'
    path = write_sweep(tmp_path, METHODS + fixed + tune)
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--tune"]) == 0
    from fedpurel_app.sweeps.file import load_sweep

    found = {one.method: one.values for one in load_sweep(path).tuned}
    assert found.keys() == {"FedAvg", "FedPuReL"}
    played = [RunFolder(path) for path in (tmp_path / "out" / "tune").iterdir()]
    assert {run.read_json("config.json")["config"]["evaluate-on"] for run in played} == {"validation"}
    for name, algorithm in (("FedAvg", "fedavg"), ("FedPuReL", "fedpurel")):
        means: dict[float, list[float]] = {}
        for run in played:
            config = run.read_json("config.json")["config"]
            if config["algorithm"] == algorithm:
                means.setdefault(config["learning-rate"], []).append((run.summary() or {})["global"]["all"])
        best = max(means, key=lambda rate: sum(means[rate]))
        assert found[name] == {"learning-rate": best}
    text = path.read_text()
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--tune"]) == 0
    assert path.read_text() == text  # nothing is run again, and nothing is written twice


def test_a_file_without_the_table_is_not_tuned(tmp_path, capsys):
    path = write_sweep(tmp_path)
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--tune"]) == 2
    assert "[tune]" in capsys.readouterr().err
    assert Path(path).read_text().count("tuned") == 0
