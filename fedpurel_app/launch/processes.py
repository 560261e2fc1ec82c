"""Signals, and the processes that a command started, however far down: so that none outlives it."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

import psutil

from fedpurel_app.core.errors import RunError

_MARK = "FEDPUREL_CONDUCTOR"
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FILES, _LEAST_FILES = 4096, 256  # open at a time: wanted, and needed
_GRACE = 5.0  # seconds that a round has to end in after a termination: soon after, whoever sent it kills
_KILL_TIMEOUT = 10.0  # seconds


class ProcessFamily:
    """All processes started, directly or not, with :attr:`mark` in their environment.

    They are found by the mark, and as descendants of those: Ray's agents overwrite their environment, and lose their
    parent when a run is stopped, so the family must be noted while it is whole.
    """

    def __init__(self, token: str = "") -> None:
        self._token = token or uuid.uuid4().hex
        self._known: set[psutil.Process] = set()

    @contextlib.contextmanager
    def guarded(self, scratch: Path) -> Iterator[None]:
        """Have the family end with this process, however that dies; then the folder ``scratch`` is removed, too."""
        command = [sys.executable, "-m", "fedpurel_app.launch.guard", self._token, str(scratch)]
        guard = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=with_package(os.environ),
            start_new_session=True,
        )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it may have been killed
                guard.communicate(b"done")

    @property
    def mark(self) -> dict[str, str]:
        """What the environment of a process must hold to belong here."""
        return {_MARK: self._token}

    def note(self) -> int:
        """Look for new members; gives the number of all known so far."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get(_MARK) == self._token:
                    self._known.add(process)
                    self._known.update(process.children(recursive=True))
        return len(self._known)

    def stop(self, patience: float = 0.0) -> None:
        """End all: with patience they may do so themselves, for that many seconds, else they are killed at once."""
        if patience:
            self._end(kill=False, seconds=patience)
        deadline = time.monotonic() + _KILL_TIMEOUT
        while self._end(kill=True, seconds=1.0) and time.monotonic() < deadline:
            continue  # one of them may have started another before it died

    def _end(self, kill: bool, seconds: float) -> int:
        """Terminate or kill all that live and wait for them; gives their number."""
        self.note()
        found = [process for process in self._known if _lives(process)]
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill() if kill else process.terminate()
        psutil.wait_procs(found, timeout=seconds)
        return len(found)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def with_package(environment: Mapping[str, str]) -> dict[str, str]:
    """Add to an environment what lets Python find this package where it is not installed."""
    package = Path(__file__).parent.parent
    if package in {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}:
        return dict(environment)
    path = os.pathsep.join(filter(None, [str(package), environment.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": path}


@contextlib.contextmanager
def _handled(handle: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Handle all signals that ask to end."""
    before = {number: signal.signal(number, handle) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupts:
    """What Ctrl-C, a termination or a hang-up does while a run goes on: ask it to end, and the second time end it.

    Parameters
    ----------
    ask : callable
        Called at the first signal. Gives the line that answers it, and whether there is something to wait for; if
        not, the run is ended at once.

    Attributes
    ----------
    asked : bool
        Whether the run was asked to end.
    """

    def __init__(self, ask: Callable[[], tuple[str, bool]]) -> None:
        self._ask, self.asked = ask, False
        self._deadline = math.inf

    def handled(self) -> contextlib.AbstractContextManager[None]:
        """Handle the signals so, in a ``with`` statement."""
        return _handled(self._take)

    def check(self) -> None:
        """Raise KeyboardInterrupt when a termination, after which nobody can press again, has waited long enough."""
        if time.monotonic() > self._deadline:
            raise KeyboardInterrupt

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            say_now("stopping now")
            raise KeyboardInterrupt
        self.asked = True
        line, waits = self._ask()
        say_now(line)
        if not waits:
            raise KeyboardInterrupt
        if number != signal.SIGINT:
            self._deadline = time.monotonic() + _GRACE


def say_now(line: str) -> None:
    """Write a line on the terminal, over a progress bar if there is one, from within a signal's handler, too."""
    with contextlib.suppress(OSError):
        clear = "\r\x1b[2K" if os.isatty(2) else ""  # of a bar, which is drawn again below
        os.write(2, f"{clear}{line}\n".encode())


def signals_held() -> contextlib.AbstractContextManager[None]:
    """Let an impatient Ctrl-C not cut the clean-up short, in a ``with`` statement."""
    return _handled(signal.SIG_IGN)


def allow_open_files() -> None:
    """Raise this process's limit of open files, and that of those it starts, as far as it may.

    Raises
    ------
    RunError
        When that leaves too few for Ray, which waits for ever then.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FILES:
        return
    allowed = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if allowed < _LEAST_FILES:
        raise RunError(
            f"this process may have {allowed} files open at a time, and Ray needs {_LEAST_FILES}: raise the limit "
            "(ulimit -n)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def ray_address() -> str:
    """Return the address of the Ray cluster that the user wants the sites on; empty for a Ray of our own."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if address == "local" else address


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Let a Ctrl-C or a termination wait until what must not be cut in two is done."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if not came:
            say_now("stopping, as soon as this step is done")
        came.append(number)

    with _handled(note):
        yield
    if came:
        raise KeyboardInterrupt


def count_gpus() -> int:
    """Count the GPUs that this process may use, without loading torch."""
    tool, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if tool is None or visible in ("", "-1"):
        return 0
    try:
        result = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30)
    except (subprocess.TimeoutExpired, OSError):
        return 0
    found = sum(line.startswith("GPU ") for line in result.stdout.splitlines()) if result.returncode == 0 else 0
    return found if visible is None else min(found, len(visible.split(",")))
