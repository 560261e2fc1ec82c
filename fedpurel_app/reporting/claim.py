"""Whose a run folder is while a run goes on in it: two locks, and beside each who holds it.

The command that starts a run holds one for as long as it is there, the server, which may be a process of its own, the
other: each of them may be killed before the other is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock, Timeout

from fedpurel_app.core.errors import StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.core.names import clean

_LOOK = 0.5  # seconds: others may hold a lock for an instant, to see whether it is held


@dataclass(frozen=True)
class Holder:
    """A process that has a run folder."""

    pid: int = 0
    host: str = ""
    since: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        where = f" on {clean(self.host, 64)}" if self.host != socket.gethostname() else ""
        return f"process {self.pid}{where}, since {clean(self.since, 32)}"


class Claim:
    """A claim to a run folder, until it is released or until the process ends; usable in a ``with`` statement.

    Parameters
    ----------
    folder : Path
        Which exists.
    name : str
        Of the lock: "command" or "run".
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._path = folder, folder / f"{name}.lock"
        self._note = folder / f"{name}.holder.json"
        self._lock = FileLock(self._path)

    def acquire(self, patience: float = _LOOK) -> None:
        """Make the folder this process's own.

        Raises
        ------
        StateError
            When it is another's for longer than ``patience`` seconds, or cannot be written.
        """
        try:
            self._lock.acquire(timeout=patience, poll_interval=0.05)
            holder = Holder(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))
            write_atomically(self._note, json.dumps(asdict(holder)).encode())
        except Timeout:
            raise StateError(going_on(self._folder, self.holder() or Holder())) from None
        except OSError as error:
            self._lock.release()
            raise StateError(f"{self._folder} cannot be written ({error.strerror}).") from error

    def release(self) -> None:
        """Leave the folder to others."""
        if self._lock.is_locked:
            self._note.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def holder(self) -> Holder | None:
        """Who has the folder by this lock; None when nobody has. Nothing is written for that."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return self._noted()
        finally:
            os.close(descriptor)
        return None

    def _noted(self) -> Holder:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            found = json.loads(self._note.read_text("utf-8"))
            return Holder(int(found["pid"]), str(found["host"]), str(found["since"]))
        return Holder()


def going_on(folder: Path, holder: Holder) -> str:
    """Say that a run goes on in a folder, whose it is, and what to do."""
    how = f": kill {holder.pid}" if holder.pid else ""
    return f"a run is going on in {folder} ({holder}): wait for it, or stop it first{how}"


def is_own(holder: Holder) -> bool:
    """Tell whether a holder is this process, or one that started it, however far up."""
    if holder.host != socket.gethostname():
        return False
    with contextlib.suppress(psutil.Error):
        return holder.pid in {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return holder.pid == os.getpid()
