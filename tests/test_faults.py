"""Whole runs that meet damaged files, full disks, and each other."""

import json
import shutil
import time

import pytest
from flwr.app import Error, Message

from fedpurel_app.core.errors import AttemptError, DiskFullError, RunError
from fedpurel_app.reporting.console import show_lines
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.strategies import FedPuReL
from tests.support import EndedRun, run_tiny, timeless
from tests.test_run import Killed, kill_at


def once(kind, act):
    """Make a spy that acts after the first reply of a kind."""
    done: list[bool] = []

    def spy(message, reply):
        if message.metadata.message_type == kind and not done:
            done.append(True)
            act()

    return spy


def branches(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


# --- two runs of one experiment ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return run_tiny(folder, experiment_id="e", state_dir=str(folder / "state")), branches(folder / "state")


@pytest.mark.parametrize("during", ["train", "train.personalize"])
def test_a_twin_is_refused_and_harms_nothing(tmp_path, alone, during):
    same = {"experiment_id": "e", "state_dir": str(tmp_path / "state")}

    def start_another():
        with pytest.raises(
            AttemptError, match='another run of experiment "e" has been here, which this one is no resumption of'
        ):
            run_tiny(tmp_path / "second", **same)

    first = run_tiny(tmp_path / "first", grid={"spy": once(during, start_another)}, **same)
    whole, stored = alone
    assert timeless(first) == timeless(whole) and branches(tmp_path / "state") == stored
    summary = EndedRun(tmp_path / "second" / "run").summary()
    assert summary["outcome"] == "failed" and "give this one an experiment-id of its own" in summary["error"]
    assert "num-supernodes" not in summary["error"], "more nodes would not help"


def test_a_run_that_was_resumed_elsewhere_is_stopped_by_its_sites(tmp_path, alone):
    """A copy of the run folder is resumed while the run still goes on: the later attempt is served, to the end."""
    same = {"experiment_id": "e", "state_dir": str(tmp_path / "state"), "max_failed_rounds": 1}

    def resume_a_copy():
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        run_tiny(tmp_path, resume_from=str(tmp_path / "copy"), grid={"shuffle": 1}, **same)

    with pytest.raises(RunError, match='attempt 1 of experiment "e" came after attempt 2'):
        run_tiny(tmp_path, grid={"spy": once("train.personalize", resume_a_copy)}, **same)
    whole, stored = alone
    assert EndedRun(tmp_path / "copy").summary()["outcome"] == "completed"
    assert timeless(RunFolder(tmp_path / "copy")) == timeless(whole) and branches(tmp_path / "state") == stored


def test_every_resumption_counts_one_up_even_one_that_dies_at_once(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, 3, "state.json")
        with pytest.raises(Killed):
            run_tiny(tmp_path)
    folder = RunFolder(tmp_path / "run")
    assert folder.read_json("state.json")["attempt"] == 1
    for number in (2, 3):

        def die():
            raise Killed

        with pytest.raises(Killed):
            run_tiny(tmp_path, resume_from=str(folder.path), grid={"spy": once("query.describe", die)})
        assert folder.read_json("state.json")["attempt"] == number
    assert run_tiny(tmp_path, resume_from=str(folder.path)).summary()["outcome"] == "completed"
    attempts = {path.read_text() for path in folder.path.rglob("attempt.json")}
    assert {json.loads(text)["number"] for text in attempts} == {4} and len(attempts) == 1


def test_a_run_that_died_before_its_first_round_may_be_begun_anew(tmp_path, monkeypatch):
    same = {"experiment_id": "e", "state_dir": str(tmp_path / "state")}
    with monkeypatch.context() as patch:
        kill_at(patch, 0, "checkpoint.safetensors")
        with pytest.raises(Killed):
            run_tiny(tmp_path / "first", **same)
    assert run_tiny(tmp_path / "second", **same).summary()["outcome"] == "completed"


def test_methods_without_a_private_part_bind_nobody(tmp_path):
    folder = run_tiny(tmp_path, algorithm="fedavg")
    assert not (folder.path / "private").exists()


# --- rounds without a usable reply ------------------------------------------------------------------------------------


def failing(kind, reason):
    """Make a spy that turns all replies of a kind into errors."""

    def spy(message, reply):
        if message.metadata.message_type == kind:
            return Message(Error(code=2, reason=reason), reply_to=message)
        return None

    return spy


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_run_in_which_nothing_was_trained_has_failed_and_says_why(tmp_path, rounds):
    reason = "DataError: " + "a/long/path/" * 20 + "z.jpg is empty: mend it, or take it away."
    with pytest.raises(RunError, match="z.jpg is empty"):
        run_tiny(tmp_path, algorithm="fedavg", global_rounds=rounds, grid={"spy": failing("train", reason)})
    folder = EndedRun(tmp_path / "run")
    summary = folder.summary()
    assert summary["outcome"] == "failed" and reason in summary["error"], "the whole path, not the first of it"
    count = "the one global round" if rounds == 1 else "the 2 global rounds"
    assert f"In none of {count} enough sites gave a usable reply: the global model is that of" in summary["error"]
    assert "round 1: " in summary["error"] and len(folder.rounds()) == rounds + 1


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("train", "the 2 global rounds enough sites gave a usable reply: the global model is that of before training"),
        ("train.personalize", "the 2 personal rounds enough sites gave a usable reply: no private branch was trained"),
    ],
)
def test_a_phase_in_which_nothing_was_trained_makes_the_run_a_failure(tmp_path, kind, said):
    with pytest.raises(RunError, match=f"In none of {said}"):
        run_tiny(tmp_path, global_rounds=2, grid={"spy": failing(kind, "boom")})
    assert [line["kept_old_model"] for line in RunFolder(tmp_path / "run").rounds()[1:]].count(True) == 2


def test_one_round_with_an_effect_is_enough(tmp_path):
    def fail_later(message, reply):
        first = message.metadata.message_type == "train" and message.content["config"]["round"] == 1
        return None if first else failing("train", "boom")(message, reply)

    assert run_tiny(tmp_path, global_rounds=2, grid={"spy": fail_later}).summary()["outcome"] == "completed"


# --- a private branch that cannot be used -----------------------------------------------------------------------------


def damage(folder):
    """Cut the private branch of the site that wrote first."""
    path = min(folder.rglob("private-*.safetensors"))
    path.write_bytes(path.read_bytes()[:50])


SETTINGS = {"fraction_train": 1.0, "evaluate_every": 1, "experiment_id": "e"}


def test_a_damaged_branch_costs_its_site_the_rounds_and_is_kept(tmp_path):
    state = tmp_path / "state"
    spy = once("train.personalize", lambda: damage(state))
    folder = run_tiny(tmp_path, state_dir=str(state), grid={"spy": spy}, **SETTINGS)
    summary = folder.summary()
    assert summary["outcome"] == "completed" and summary["private_restarted"] == []
    dropped = [reason for line in folder.rounds()[4:] for site, reason in line["dropped"] if site == "site-0"]
    assert len(dropped) == 5 and "is damaged" in dropped[0] and "is not in" in dropped[1]
    (kept,) = state.rglob("*.refused-damaged-1")
    assert len(kept.read_bytes()) == 50 and "site-0" in str(kept)


def test_a_site_that_was_told_so_begins_afresh_and_is_counted(tmp_path, caplog):
    state = tmp_path / "state"
    spy = once("train.personalize", lambda: damage(state))
    grid = {"spy": spy, "node": {"private-fallback": "fresh"}}
    folder = run_tiny(tmp_path, state_dir=str(state), grid=grid, **SETTINGS)
    summary, lines = folder.summary(), folder.rounds()
    assert summary["outcome"] == "completed" and summary["dropped_replies"] == 0
    assert summary["private_restarted"] == ["site-0"]
    # Lost in round 4: its evaluation scores no branch; in round 5 it begins another one, and from then on has it.
    assert [line.get("private_restarted", []) for line in lines] == [[], [], [], [], ["site-0"], ["site-0"], []]
    assert "private-restarted" not in lines[5]["train"]
    assert "1 LOST THEIR PRIVATE BRANCH (site-0)" in caplog.text
    assert any("lost and begun afresh: 1 (site-0)" in line for line in show_lines(folder))
    assert len(list(state.rglob("*.refused-damaged-1"))) == 1


def test_a_fallback_that_does_not_exist_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(FedPuReL.__init__.__kwdefaults__, "connect_timeout", 0.1)
    with pytest.raises(RunError, match="0 of 5 sites"):
        run_tiny(tmp_path, grid={"node": {"private-fallback": "afresh"}})


def test_a_whole_run_on_encrypted_branches(tmp_path):
    from fedpurel_app.site.sealing import make_key_file

    make_key_file(tmp_path / "key")
    sealed = run_tiny(tmp_path / "sealed", grid={"node": {"key-file": str(tmp_path / "key")}})
    plain = run_tiny(tmp_path / "plain")
    assert timeless(sealed) == timeless(plain)
    files = list(branches(sealed.path / "private").values())
    assert files and all(content.startswith(b"fedpurel sealed") for content in files)


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-1e7, 1e7])
def test_a_clock_that_is_set_changes_nothing_but_dates(tmp_path, monkeypatch, alone, jump):
    whole, now, moved = alone[0], time.time, []

    def spy(message, reply):
        moved.append(jump)

    monkeypatch.setattr(time, "time", lambda: now() + sum(moved))
    folder = run_tiny(tmp_path, experiment_id="e", state_dir=str(tmp_path / "state"), grid={"spy": spy})
    assert len(moved) > 10 and timeless(folder) == timeless(whole)
    seconds = folder.summary()["seconds"]
    assert all(0 <= value < 600 for name, value in seconds.items() if name not in ("start_up", "total"))
    assert seconds["start_up"] >= 0 and all(line["seconds"]["total"] < 600 for line in folder.rounds())


# --- full disks -------------------------------------------------------------------------------------------------------


def fill(disk):
    """Leave no byte free."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_a_full_disk_at_a_site_costs_the_round_alone(tmp_path, small_disk, alone):
    filled = []

    def spy(message, reply):
        kind, number = message.metadata.message_type, dict(message.content["config"]).get("round")
        if kind == "evaluate" and number == 3:
            fill(small_disk)
            filled.append(True)
        if kind == "evaluate" and number == 5 and filled:
            (small_disk / "filler").unlink()
            filled.clear()

    folder = run_tiny(tmp_path, state_dir=str(small_disk / "state"), experiment_id="e", grid={"spy": spy})
    assert folder.summary()["outcome"] == "completed"
    reasons = [reason for line in folder.rounds()[4:6] for _, reason in line["dropped"]]
    assert len(reasons) == 4 and all("DiskFullError" in reason and "are free there" in reason for reason in reasons)
    assert folder.rounds()[6]["dropped"] == []


def test_a_full_disk_at_the_server_is_named_and_the_run_resumed(tmp_path, small_disk, caplog):
    whole = run_tiny(tmp_path / "whole", experiment_id="e")
    out = small_disk / "run"
    same = {"experiment_id": "e", "state_dir": str(tmp_path / "state"), "out": str(out)}

    def spy(message, reply):
        if message.metadata.message_type == "train.personalize" and not (small_disk / "filler").exists():
            fill(small_disk)

    # The round's line may still fit into the last block of its file; what comes next does not.
    with pytest.raises(DiskFullError, match=r"/run/\S+ could not be written: No space left.*--resume"):
        run_tiny(tmp_path, grid={"spy": spy}, **same)
    assert "the run failed" in caplog.text and "could not be written" in caplog.text
    with pytest.raises(DiskFullError):
        run_tiny(tmp_path, resume_from=str(out), **same)  # still full
    (small_disk / "filler").unlink()
    resumed = run_tiny(tmp_path, resume_from=str(out), **same)
    assert resumed.summary()["outcome"] == "completed" and timeless(resumed) == timeless(whole)
