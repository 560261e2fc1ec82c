"""``fedpurel status``: which runs and sweeps there are, and what they do."""

import json
from typing import Any

import pytest

from fedpurel_app.cli.main import main
from fedpurel_app.core.errors import StateError
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.status import find
from tests.reporting.runs import make_run
from tests.reporting.sweeps import cell, write_plan, write_run
from tests.reporting.sweeps import scores as one_score


@pytest.fixture
def base(tmp_path):
    """A completed run, one that goes on, one that was cut off, one that begins, a damaged one, and half a sweep."""
    for name in ("done", "going", "cut", "damaged"):
        make_run(tmp_path / "runs" / name)
    for name in ("going", "cut"):
        (tmp_path / "runs" / name / "summary.json").unlink()
        last = (tmp_path / "runs" / name / "rounds.jsonl").read_text().splitlines()[:-1]
        (tmp_path / "runs" / name / "rounds.jsonl").write_text("\n".join(last) + "\n")
    (tmp_path / "runs" / "damaged" / "rounds.jsonl").write_text("no round\n")
    (tmp_path / "runs" / "new").mkdir()
    sweep = write_plan(tmp_path / "sweeps" / "half", ["A"], [cell("A", seed) for seed in (0, 1)], title="Half <a>")
    write_run(sweep / "runs" / "a-s0", {"algorithm": "fedavg", "seed": 0}, {"global": one_score(60.0)})
    return tmp_path


def states(base):
    runs, sweeps = find(base)
    found: list[Any] = [*runs, *sweeps]
    return {one.path.rpartition("/")[2]: one for one in found}


def test_each_run_has_its_state(base):
    claim = RunFolder(base / "runs" / "new").claim()
    try:
        with RunFolder(base / "runs" / "going").lock():
            found = states(base)
            assert [one.path.rpartition("/")[2] for one in find(base)[0]][:2] in (["going", "new"], ["new", "going"])
    finally:
        claim.release()
    wanted = {"done": "completed", "going": "running", "cut": "cut off", "damaged": "damaged", "new": "starting"}
    assert {name: found[name].state for name in wanted} == wanted
    assert (found["done"].round, found["going"].round) == (4, 3)
    assert (found["done"].all, found["done"].few, found["done"].personalized) == (74.5, 58.0, 77.25)
    assert [found[name].resumes for name in ("done", "going", "cut")] == [False, False, True]
    assert "rounds.jsonl, line 1" in found["damaged"].what
    assert states(base)["new"].state == "cut off"


def test_a_sweep_has_its_counts(base):
    one = states(base)["half"]
    assert (one.runs, one.completed, one.running, one.title) == (2, 1, 0, "Half <a>")
    (base / "sweeps" / "half" / "runs" / "a-s1").mkdir()
    with RunFolder(base / "sweeps" / "half" / "runs" / "a-s1").lock():
        assert states(base)["half"].running == 1


def test_the_command_prints_words_or_json(base, capsys):
    assert main(["status", str(base)]) == 0
    out = capsys.readouterr().out
    assert "4 runs, 0 of them running" in out and "1 sweep, 0 of them running" in out
    assert "round 4 of 4; global 74.5, Few 58.0, personalized 77.2; " in out
    assert f"continue it: fedpurel run --resume {base / 'runs' / 'cut'}" in out and "1 of 2 runs; " in out
    assert main(["status", str(base), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["runs"]) == 4 and told["sweeps"][0]["completed"] == 1


def test_the_newest_ten_are_listed_and_the_rest_is_counted(tmp_path, capsys):
    for number in range(12):
        make_run(tmp_path / "runs" / f"run-{number:02d}")
    assert main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("completed") == 10 and "... and 2 that ended before; --all lists them" in out
    assert main(["status", str(tmp_path), "--all"]) == 0
    assert capsys.readouterr().out.count("completed") == 12


def test_folders_that_no_run_was_begun_in_are_no_runs(base):
    (base / "runs" / "notes").mkdir()
    assert "notes" not in states(base)


def test_a_run_that_is_closed_to_this_user_hides_no_other(base, monkeypatch):
    rounds = RunFolder.rounds

    def closed(folder):
        if folder.path.name == "cut":
            raise PermissionError(13, "Permission denied", str(folder.path))
        return rounds(folder)

    monkeypatch.setattr(RunFolder, "rounds", closed)
    one = states(base)["cut"]
    assert one.state == "damaged" and one.what == "it cannot be read (Permission denied)"
    assert states(base)["done"].state == "completed"


def test_a_folders_name_writes_nothing_but_text_to_a_terminal(tmp_path, capsys):
    make_run(tmp_path / "runs" / "a\x1b[31m")
    assert main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and f"{tmp_path / 'runs'}/a?[31m\n" in out


def test_where_nothing_was_run_that_is_said(tmp_path, capsys):
    with pytest.raises(StateError, match="is no folder: nothing was run here"):
        find(tmp_path / "nowhere")
    assert main(["status", str(tmp_path / "nowhere")]) == 2
    assert main(["status", str(tmp_path)]) == 0
    assert "0 runs, 0 of them running" in capsys.readouterr().out
