import json
import re

import numpy as np
import pytest

from fedpurel_app.core.errors import StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.reporting import checkpoint, run_files
from fedpurel_app.reporting.run_folder import RunFolder, new_run_path
from tests.support import a_round, a_state


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run")


def arrays(value):
    return {"w": np.full(3, value, np.float32)}


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        RunFolder.create(tmp_path / "file" / "run")


def test_a_folder_without_permission_is_refused(as_plain_user):
    RunFolder.create(as_plain_user / "open" / "run")
    (as_plain_user / "locked").mkdir(mode=0o500)
    with pytest.raises(StateError, match="cannot be written"):
        RunFolder.create(as_plain_user / "locked" / "run")


def test_half_a_line_is_no_round(folder):
    folder.append_round(a_round(1))
    with (folder.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 2, "tra')
    assert [line["round"] for line in folder.rounds()] == [1]
    folder.drop_rounds_after(1)
    folder.append_round(a_round(2))
    assert [line["round"] for line in folder.rounds()] == [1, 2]


def test_rounds_after_a_checkpoint_are_forgotten(folder):
    for number in range(5):
        folder.append_round(a_round(number))
    folder.drop_rounds_after(2)
    assert [line["round"] for line in folder.rounds()] == [0, 1, 2]


def test_nan_never_reaches_a_file(folder):
    folder.append_round(a_round(1, loss=float("nan"), train={"loss": float("inf")}, norms=[1.0, float("inf")]))
    folder.write_json("summary.json", {"outcome": "failed", "best": {"few": float("-inf")}})
    assert folder.rounds() == [a_round(1, loss=None, train={"loss": None}, norms=[1.0, None])]
    assert folder.summary()["best"] == {"few": None}
    assert "NaN" not in (folder.path / "rounds.jsonl").read_text()


def test_a_folder_is_for_one_run_at_a_time(folder):
    assert not folder.is_running
    lock = folder.lock()
    with pytest.raises(StateError, match="a run is going on in"):
        RunFolder(folder.path).lock()
    assert RunFolder(folder.path).is_running
    lock.release()
    assert not folder.is_running


def test_a_crash_twice_at_the_same_point_leaves_the_old_pair(folder, monkeypatch):
    folder.write_checkpoint(arrays(1), a_state(1))
    write_object = run_files.write_object

    def full_disk(path, content, mode=0):
        raise OSError("no space left on device")

    for value in (2, 3):  # each dies after the arrays, before the state
        monkeypatch.setattr(checkpoint, "write_object", full_disk)
        with pytest.raises(OSError):
            folder.write_checkpoint(arrays(value), a_state(value))
        monkeypatch.setattr(checkpoint, "write_object", write_object)
        found, state = folder.read_checkpoint()
        assert state["round"] == 1 and (found["w"] == arrays(1)["w"]).all()


def test_the_checkpoint_comes_back(folder):
    folder.write_checkpoint(arrays(1), a_state(1, extra=[1, 2]))
    folder.write_checkpoint(arrays(2), a_state(2, extra=[3]))
    found, state = folder.read_checkpoint()
    assert found["w"].tolist() == [2, 2, 2] and state["extra"] == [3]


@pytest.mark.parametrize("victim", ["checkpoint.safetensors", "state.json"])
def test_a_crash_at_any_write_leaves_the_old_pair(folder, monkeypatch, victim):
    folder.write_checkpoint(arrays(1), a_state(1))

    def dying(path, content, mode=0o644):
        if path.name == victim:
            raise OSError(28, "No space left on device")
        write_atomically(path, content, mode)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", dying)
        patch.setattr(run_files, "write_atomically", dying)
        with pytest.raises(OSError, match="No space"):
            folder.write_checkpoint(arrays(2), a_state(2))
    found, state = folder.read_checkpoint()
    assert found["w"].tolist() == [1, 1, 1] and state["round"] == 1
    folder.write_checkpoint(arrays(2), a_state(2))
    assert folder.read_checkpoint()[1]["round"] == 2


def test_a_damaged_checkpoint_is_an_error(folder):
    folder.write_checkpoint(arrays(1), a_state(1))
    (folder.path / "checkpoint.safetensors").write_bytes(b"damage")
    with pytest.raises(StateError, match="no readable checkpoint of round 1"):
        folder.read_checkpoint()


def test_no_checkpoint_yet(folder):
    with pytest.raises(StateError, match="no checkpoint yet"):
        folder.read_checkpoint()


def test_another_schema_is_refused(folder):
    (folder.path / "config.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(StateError, match="another schema"):
        folder.read_json("config.json")


def test_new_folders_have_dated_names_and_never_collide(home):
    first = new_run_path("fedpurel", "prompt", "shapes", 7)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_fedpurel-prompt_shapes_s7", first.name) and first.parent == home / "runs"
    first.mkdir(parents=True)
    second = new_run_path("fedpurel", "prompt", "shapes", 7)
    second.mkdir()
    assert second.name == f"{first.name}-2"
    assert new_run_path("fedpurel", "prompt", "shapes", 7).name == f"{first.name}-3"


def test_the_state_which_holds_the_experiments_secret_is_its_owners_alone(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.write_checkpoint({"w": np.zeros(1)}, {"round": 1})
    assert (folder.path / "state.json").stat().st_mode & 0o777 == 0o600
