import os
import stat

import numpy as np
import pytest

from fedpurel_app.core.errors import AttemptError, StateError, UnusableBranchError
from fedpurel_app.site import private_store
from fedpurel_app.site.private_store import PrivateStore
from fedpurel_app.site.run_fence import Attempt
from fedpurel_app.site.sealing import Key


def branch(value):
    return {"context": np.full((2, 3), value, np.float32)}


@pytest.fixture
def store(tmp_path):
    return PrivateStore(tmp_path / "state", "experiment", "site-1")


KEY = Key(b"k" * 32)


def again(store, site="site-1", **options):
    """The same site, in the process of a later message."""
    return PrivateStore(store._folder.parent.parent, "experiment", site, **options)


def names_in(store):
    return sorted(path.name for path in store._folder.iterdir() if path.name != "lock")


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


# --- files that cannot be used ----------------------------------------------------------------------------------------

NAME = "private-000001.safetensors"


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
@pytest.mark.parametrize("damage", [lambda b: b[:10], lambda b: b[:-4], lambda b: b"", lambda b: b"x" * 200, flip])
def test_a_damaged_file_is_kept_aside_and_never_overwritten(store, damage, key):
    store = again(store, key=key)
    for number in (1, 2):
        store.save(branch(1), 1, 0)
        damaged = damage(path_of(store, 1).read_bytes())
        path_of(store, 1).write_bytes(damaged)
        kept = f"{NAME}.refused-damaged-{number}"
        with pytest.raises(
            UnusableBranchError, match=f"is damaged .*private-fallback.* It is kept as {kept}"
        ) as caught:
            store.take(1)
        assert caught.value.reason == "damaged"
        assert (store._folder / kept).read_bytes() == damaged and not path_of(store, 1).exists()
    with pytest.raises(UnusableBranchError, match=f"there: none, kept aside: {NAME}.refused-damaged-1") as caught:
        store.take(1)
    assert caught.value.reason == "absent"
    store.save(branch(2), 2, 1)
    assert [name for name in names_in(store) if "refused" in name] == [f"{NAME}.refused-damaged-{n}" for n in (1, 2)]


def test_reading_alone_changes_nothing(store):
    store.save(branch(1), 1, 0)
    path_of(store, 1).write_bytes(b"")
    with pytest.raises(UnusableBranchError):
        store.load(1)
    assert names_in(store) == [NAME]


@pytest.mark.parametrize(("schema", "kept"), [(0, f"{NAME}.refused-older-version-1"), (2, NAME)])
def test_an_older_file_is_kept_aside_a_newer_one_waits_for_the_upgrade(store, monkeypatch, schema, kept):
    with monkeypatch.context() as patch:
        patch.setattr(private_store, "SCHEMA", schema)
        again(store).save(branch(1), 1, 0)
    with pytest.raises(UnusableBranchError, match=f"schema {schema} instead of 1"):
        store.take(1)
    assert names_in(store) == [kept]


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_a_foreign_file_is_left_where_it_is_whatever_happens(store, key):
    """It may be another site's only copy: its folder mounted here, or a backup restored to the wrong place."""
    store = again(store, key=key)
    store.save(branch(7), 1, 0)
    other = again(store, "site-2", key=key)
    other._folder.mkdir()
    path_of(store, 1).rename(path_of(other, 1))
    before = path_of(other, 1).read_bytes()
    with pytest.raises(UnusableBranchError, match="It was left as it is") as caught:
        other.take(1)
    assert caught.value.reason == "foreign"
    other.save(branch(5), 5, 1)
    other.save(branch(6), 6, 5)  # its own generations come and go
    assert other.stamps() == [1, 5, 6]
    with pytest.raises(StateError, match="is not this site's, and is not overwritten"):
        other.save(branch(1), 1, 0)
    assert path_of(other, 1).read_bytes() == before


def test_a_damaged_file_in_the_way_of_a_new_one_is_kept_aside(store):
    store.save(branch(1), 1, 0)
    path_of(store, 1).write_bytes(b"damage")
    store.save(branch(2), 1, 0)
    assert names_in(store) == [NAME, f"{NAME}.refused-damaged-1"] and float(store.load(1)["context"][0, 0]) == 2


def test_a_disk_that_refuses_to_read_costs_no_file(store):
    store.save(branch(1), 1, 0)
    path_of(store, 1).unlink()
    path_of(store, 1).mkdir()  # cannot be read as a file, not even by root
    with pytest.raises(StateError, match="cannot be read") as caught:
        store.take(1)
    assert not isinstance(caught.value, UnusableBranchError) and names_in(store) == [NAME]


def test_leftovers_of_a_crash_are_cleaned(store):
    store.save(branch(1), 1, 0)
    (store._folder / f".{NAME}.abc.tmp").write_bytes(b"half")
    store.save(branch(2), 2, 1)
    assert names_in(store) == [NAME, "private-000002.safetensors"]


def test_restored_folders_are_closed_again(store):
    store.save(branch(1), 1, 0)
    store._folder.chmod(0o755)
    store.save(branch(2), 2, 1)
    assert stat.S_IMODE(store._folder.stat().st_mode) == 0o700


# --- encryption -------------------------------------------------------------------------------------------------------


def test_a_sealed_branch_comes_back_with_its_key_alone(store):
    sealed = again(store, key=KEY)
    sealed.save(branch(1.5), 1, 0)
    assert np.array_equal(sealed.load(1)["context"], branch(1.5)["context"])
    assert branch(1.5)["context"].tobytes() not in path_of(store, 1).read_bytes()
    for key, part in ((None, "without a key"), (Key(b"o" * 32), "with key")):
        with pytest.raises(StateError, match=part) as caught:
            again(store, key=key).take(1)
        assert not isinstance(caught.value, UnusableBranchError), "a setting is wrong, not the file"
    assert names_in(store) == [NAME]


def test_plain_files_are_read_with_a_key_and_leave_with_their_generation(store):
    store.save(branch(1), 1, 0)
    sealed = again(store, key=KEY)
    assert float(sealed.take(1)["context"][0, 0]) == 1
    for stamp in (2, 3):
        sealed.save(branch(stamp), stamp, stamp - 1)
    assert sealed.stamps() == [2, 3]
    assert all(path_of(store, stamp).read_bytes().startswith(b"fedpurel sealed") for stamp in (2, 3))


def test_a_sealed_generation_cannot_pass_for_another(store):
    """Neither renamed, nor with its stamp changed in the clear."""
    sealed = again(store, key=KEY)
    sealed.save(branch(1), 1, 0)
    content = path_of(store, 1).read_bytes()
    path_of(store, 2).write_bytes(content)
    with pytest.raises(UnusableBranchError, match="round 1 instead of 2"):
        sealed.take(2)
    path_of(store, 2).write_bytes(content.replace(b'"round": 1', b'"round": 2'))
    with pytest.raises(UnusableBranchError, match="is damaged"):
        sealed.take(2)


# --- attempts ---------------------------------------------------------------------------------------------------------


def test_the_first_work_binds_a_site_and_a_question_does_not(store):
    first, twin = again(store, attempt=Attempt(1, "a")), again(store, attempt=Attempt(1, "b"))
    first.admit(bind=False)
    twin.admit(bind=True)
    with pytest.raises(AttemptError, match='another run of experiment "experiment" has been here'):
        first.admit(bind=False)
    twin.admit(bind=True)


def test_a_resumed_run_takes_over_and_the_old_one_is_refused(store):
    old, resumed = again(store, attempt=Attempt(1, "a")), again(store, attempt=Attempt(2, "b"))
    old.admit(bind=True)
    old.save(branch(1), 1, 0)
    resumed.admit(bind=True)
    with pytest.raises(AttemptError, match="attempt 1 .* came after attempt 2"):
        old.admit(bind=True)
    with pytest.raises(AttemptError):
        old.save(branch(9), 2, 1)  # it was training while the other came
    assert names_in(store) == ["attempt.json", NAME] and float(resumed.load(1)["context"][0, 0]) == 1
    assert stat.S_IMODE((store._folder / "attempt.json").stat().st_mode) == 0o600


def test_a_server_that_counts_no_attempts_is_served_until_one_that_does_comes(store):
    store.admit(bind=True)
    store.save(branch(1), 1, 0)
    again(store, attempt=Attempt(1, "a")).admit(bind=True)
    with pytest.raises(AttemptError):
        store.admit(bind=True)


def test_a_damaged_attempt_is_no_free_pass(store):
    one = again(store, attempt=Attempt(1, "a"))
    one.admit(bind=True)
    (store._folder / "attempt.json").write_text("{")
    with pytest.raises(StateError, match="delete this file"):
        one.admit(bind=True)
