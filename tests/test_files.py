import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedpurel_app.core.errors import DiskFullError
from fedpurel_app.core.files import drop_leftovers, make_folders, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def deaths(tmp_path_factory):
    """Die in every case, all from one process; return what each case found, and what went wrong."""
    command = [sys.executable, "-m", "tests.crashing", str(tmp_path_factory.mktemp("deaths"))]
    result = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    return {case: found for case, *found in map(json.loads, result.stdout.splitlines())}, result.stderr


@pytest.mark.parametrize("case", ["private", "sealed", "checkpoint", "attempt"])
def test_death_at_any_system_call_leaves_the_old_or_the_new(deaths, case):
    """The state is checked in the child process, too: it fails on a broken file, on one lost and on leftovers."""
    told, wrong = deaths
    assert case in told, wrong
    (found,) = told[case]
    for when in ("before", "after"):
        states = [state for _, at, state in found if at == when]
        assert states == sorted(states) and set(states) == {1, 2}, "old until the rename, new from there on"
        assert {"open", "fchmod", "write", "fsync", "replace"} <= {call for call, at, _ in found if at == when}
    assert [state for call, at, state in found if at == "amid"] == [1] * (2 if case == "checkpoint" else 1)


def test_a_new_file_replaces_the_old_one_with_its_own_permissions(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new" * 1000, mode=0o600)
    assert path.read_bytes() == b"new" * 1000 and path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["file"]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
    write_atomically(tmp_path / "file", bytes(range(100)))
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def test_leftovers_alone_are_dropped(tmp_path):
    for name in (".file.abc.tmp", "file", ".hidden", "file.tmp"):
        (tmp_path / name).touch()
    drop_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "file", "file.tmp"]


def test_folders_are_made_and_their_names_synced(tmp_path, monkeypatch):
    synced: list[Path] = []
    monkeypatch.setattr("fedpurel_app.core.files.sync_folder", synced.append)
    make_folders(tmp_path / "a" / "b", mode=0o700)
    assert synced == [tmp_path, tmp_path / "a"] and (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    make_folders(tmp_path / "a" / "b")
    assert len(synced) == 2


# --- full disks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_says_what_where_how_much_and_what_to_do(tmp_path, monkeypatch, call, number):
    path = tmp_path / "checkpoint"
    path.write_bytes(b"old")

    def refuse(*arguments):
        raise OSError(number, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(DiskFullError) as caught:
            write_atomically(path, b"x" * 12345)
    text = str(caught.value)
    assert str(path) in text and "12,345 bytes" in text and "are free there" in text and "--resume" in text
    assert f"{shutil.disk_usage(tmp_path).free:,}"[:3] in text and caught.value.errno == number
    assert path.read_bytes() == b"old" and names(tmp_path) == ["checkpoint"]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "file", b"")
