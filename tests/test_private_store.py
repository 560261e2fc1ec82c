import os
import stat

import numpy as np
import pytest

from fedpurel_app import private_store
from fedpurel_app.errors import StateError
from fedpurel_app.private_store import PrivateStore


def branch(value):
    return {"context": np.full((2, 3), value, np.float32)}


@pytest.fixture
def store(tmp_path):
    return PrivateStore(tmp_path / "state", "experiment", "site-1")


def path_of(store, stamp):
    return store._path(stamp)


def test_a_branch_comes_back_as_it_was(store):
    store.save(branch(1.5), stamp=3, previous=0)
    assert np.array_equal(store.load(3)["context"], branch(1.5)["context"])


def test_the_last_two_generations_are_kept(store):
    for stamp, previous in ((3, 0), (5, 3), (9, 5)):
        store.save(branch(stamp), stamp, previous)
    assert store.stamps() == [5, 9]


def test_a_site_that_was_ahead_steps_back(store):
    """The server's checkpoint knows round 3; the site had gone on to 5. Trained again from 3, 5 is written anew."""
    store.save(branch(3), 3, 0)
    store.save(branch(5), 5, 3)
    assert float(store.load(3)["context"][0, 0]) == 3
    store.save(branch(50), 5, 3)
    assert store.stamps() == [3, 5] and float(store.load(5)["context"][0, 0]) == 50


def test_a_generation_that_the_server_forgot_is_dropped(store):
    store.save(branch(3), 3, 0)
    store.save(branch(5), 5, 3)  # the reply got lost: the server still names 3
    store.save(branch(7), 7, 3)
    assert store.stamps() == [3, 7]


def test_files_are_for_their_owner_alone(store, tmp_path):
    before = os.umask(0)
    try:
        store.save(branch(1), 1, 0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path_of(store, 1).stat().st_mode) == 0o600
    for folder in (tmp_path / "state", tmp_path / "state/experiment", tmp_path / "state/experiment/site-1"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_absent_generation_says_what_is_there(store):
    store.save(branch(1), 4, 0)
    with pytest.raises(StateError, match=r"round 7 is not in .*there: \[4\]"):
        store.load(7)


@pytest.mark.parametrize("damage", [lambda b: b[:10], lambda b: b[:-4], lambda b: b"", lambda b: b"x" * 200])
def test_a_damaged_file_is_refused(store, damage):
    store.save(branch(1), 1, 0)
    path_of(store, 1).write_bytes(damage(path_of(store, 1).read_bytes()))
    with pytest.raises(StateError, match="is damaged"):
        store.load(1)


@pytest.mark.parametrize(
    ("experiment", "site", "part"),
    [("other", "site-1", "experiment 'experiment' instead of 'other'"), ("experiment", "site-2", "site 'site-1'")],
)
def test_a_foreign_file_is_refused(store, tmp_path, experiment, site, part):
    store.save(branch(1), 1, 0)
    other = PrivateStore(tmp_path / "state", experiment, site)
    path_of(other, 1).parent.mkdir(parents=True)
    path_of(other, 1).write_bytes(path_of(store, 1).read_bytes())
    with pytest.raises(StateError, match=part):
        other.load(1)


def test_a_renamed_generation_is_refused(store):
    store.save(branch(1), 1, 0)
    path_of(store, 1).rename(path_of(store, 2))
    with pytest.raises(StateError, match="round 1 instead of 2"):
        store.load(2)


def test_another_schema_is_refused(store, monkeypatch):
    monkeypatch.setattr(private_store, "SCHEMA", 0)
    PrivateStore(store._folder.parent.parent, "experiment", "site-1").save(branch(1), 1, 0)
    with pytest.raises(StateError, match="schema 0 instead of 1"):
        store.load(1)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "x" * 65, ".hidden"])
def test_names_that_are_no_folder_names_are_refused(tmp_path, name):
    with pytest.raises(StateError, match="use 1 to 64"):
        PrivateStore(tmp_path, "experiment", name)
    with pytest.raises(StateError, match="use 1 to 64"):
        PrivateStore(tmp_path, name, "site")


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_a_write_that_fails_leaves_the_old_generation(store, monkeypatch, call):
    store.save(branch(1), 1, 0)

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="No space left"):
            store.save(branch(2), 2, 1)
    assert store.stamps() == [1] and float(store.load(1)["context"][0, 0]) == 1
    assert sorted(path.name for path in store._folder.iterdir()) == ["lock", "private-000001.safetensors"]
