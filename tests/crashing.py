"""Die at every system call of a write, as in a power loss, and look at what is left. Run in a process of its own.

``python -m tests.crashing FOLDER`` prints for every case a JSON list of its name and of all [call, when, state
afterwards]. What was written and not synced is gone after such a death: the file is cut to nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedpurel_app.core.tensor_file import read
from fedpurel_app.reporting.checkpoint import Checkpoint
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.site.private_store import PrivateStore
from fedpurel_app.site.run_fence import Attempt, seen
from fedpurel_app.site.sealing import Key
from tests.support import a_state

CALLS = ("open", "fchmod", "write", "fsync", "close", "replace", "unlink", "mkdir")
KILLED = 137


@dataclass
class Case:
    """Something that is written twice: the state after the first time is "old", after the second "new"."""

    write: Callable[[Path, int], None]
    read: Callable[[Path], int]


def _arrays(value: int) -> dict[str, Any]:
    return {"w": np.full(1000, value, np.float32)}


def _store(folder: Path) -> PrivateStore:
    return PrivateStore(folder / "state", "e", "s", key=Key(b"k" * 32) if (folder / "sealed").exists() else None)


def _read_private(folder: Path) -> int:
    """Return the newest generation; the one before must be there, too: the server names it until a reply arrives."""
    store = _store(folder)
    values = {stamp: store.load(stamp)["w"] for stamp in store.stamps()}
    assert all((value == stamp).all() and len(value) == 1000 for stamp, value in values.items())
    newest = max(values)
    assert newest == 1 or newest - 1 in values
    return newest


def _write_private(folder: Path, value: int) -> None:
    _store(folder).save(_arrays(value), value, value - 1)


def _write_sealed(folder: Path, value: int) -> None:
    (folder / "sealed").touch()
    _write_private(folder, value)


def _write_checkpoint(folder: Path, value: int) -> None:
    RunFolder(folder).write_checkpoint(_arrays(value), a_state(value))


def _read_checkpoint(folder: Path) -> int:
    arrays, state = RunFolder(folder).read_checkpoint()
    assert (arrays["w"] == state["round"]).all()
    return int(state["round"])


def _write_best(folder: Path, value: int) -> None:
    """Every round is the best so far."""
    RunFolder(folder).write_checkpoint(_arrays(value), a_state(value, best={"global": {"round": value, "value": 1.0}}))


def _write_kept_best(folder: Path, value: int) -> None:
    """Rounds 1 and 3 are better than what was before them, round 2 is not."""
    number = value if value % 2 else value - 1
    RunFolder(folder).write_checkpoint(_arrays(value), a_state(value, best={"global": {"round": number, "value": 1.0}}))


def _read_best(folder: Path) -> int:
    """Return the round of the checkpoint; the best file is the one that its state names, also after a resumption."""
    last = _read_checkpoint(folder)
    for _ in range(2):
        arrays, state = RunFolder(folder).read_best()
        assert (arrays["w"] == state["round"]).all() and state["round"] == state["best"]["global"]["round"]
        Checkpoint(folder).settle()
        arrays, facts = read(folder / "checkpoint-best.safetensors")
        assert facts["round"] == state["round"] and (arrays["w"] == state["round"]).all()
    return last


def _write_attempt(folder: Path, value: int) -> None:
    PrivateStore(folder, "e", "s", Attempt(value, "token")).admit(bind=True)


CASES = {
    "private": Case(_write_private, _read_private),
    "sealed": Case(_write_sealed, _read_private),
    "checkpoint": Case(_write_checkpoint, _read_checkpoint),
    "best": Case(_write_best, _read_best),
    "kept best": Case(_write_kept_best, _read_best),
    "attempt": Case(_write_attempt, lambda folder: seen(folder / "e" / "s").number),
}


def _die_at(number: int, when: str) -> None:
    """Make the process die before, in the middle of, or after its n-th system call, and print that call's name."""
    count, last = 0, ""
    unsynced: dict[int, int] = {}  # inode to a descriptor of its own
    say = os.write

    def die() -> None:
        for descriptor in unsynced.values():
            os.ftruncate(descriptor, 0)
        say(1, last.encode())
        os._exit(KILLED)

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal count, last
            count, last = count + 1, name
            mine = count == number
            if mine and when == "before":
                die()
            if name == "write":
                descriptor = arguments[0]
                unsynced.setdefault(os.fstat(descriptor).st_ino, os.dup(descriptor))
                if mine and when == "amid":
                    call(descriptor, bytes(arguments[1])[: len(arguments[1]) // 2])
                    unsynced.clear()  # half of it did reach the disk
                    die()
            result = call(*arguments, **options)
            if name == "fsync":
                unsynced.pop(os.fstat(arguments[0]).st_ino, None)
            if mine and when == "after":
                die()
            return result

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))


def main(name: str, root: Path) -> None:
    """Try every point of a case; the process itself never dies."""
    case, found, most = CASES[name], [], 1000
    root.mkdir()
    for when in ("before", "amid", "after"):
        for number in range(1, most + 1):
            folder = root / f"{when}-{number}"
            folder.mkdir()
            case.write(folder, 1)
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                os.dup2(writer, 1)
                _die_at(number, when)
                case.write(folder, 2)
                os._exit(0)
            os.close(writer)
            _, status = os.waitpid(child, 0)
            call = os.read(reader, 100).decode()
            os.close(reader)
            code = os.waitstatus_to_exitcode(status)
            if code == KILLED:
                found.append([call, when, case.read(folder)])
            elif code:
                raise RuntimeError(f"{when} call {number}: exit code {code}")
            case.write(folder, 2)  # life goes on
            case.write(folder, 3)
            if case.read(folder) != 3:
                raise RuntimeError(f"{when} {call}: what is written later cannot be read")
            RunFolder(folder).drop_leftovers()
            left = [str(path) for path in folder.rglob("*.tmp")]
            if left:
                raise RuntimeError(f"{when} {call} left {left}")
            if call == "" and when == "before":  # the write came to its end: that many calls it has
                most = number - 1
                break
    print(json.dumps([name, found]), flush=True)  # or every child would print it again


if __name__ == "__main__":
    os.fsync = os.fstat  # type: ignore[assignment]  # what is lost without it is decided here, and no disk is waited for
    for one in CASES:
        main(one, Path(sys.argv[1]) / one)
