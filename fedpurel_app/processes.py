"""Signals, and the processes that a command started, however far down: so that none outlives it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator

import psutil

_MARK = "FEDPUREL_CONDUCTOR"


class ProcessFamily:
    """All processes started, directly or not, with :attr:`mark` in their environment.

    They are found by the mark, and as descendants of those: Ray's agents overwrite their environment, and lose their
    parent when a run is stopped, so the family must be noted while it is whole.
    """

    def __init__(self) -> None:
        self._token = uuid.uuid4().hex
        self._known: set[psutil.Process] = set()

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

    def stop(self) -> None:
        """Terminate all, then kill those that stay."""
        for kill, patience in ((False, 5.0), (True, 10.0)):
            self.note()
            found = [process for process in self._known if process.is_running()]
            for process in found:
                with contextlib.suppress(psutil.Error):
                    process.kill() if kill else process.terminate()
            psutil.wait_procs(found, timeout=patience)


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Treat termination and hang-up like Ctrl-C, so that they too leave nothing behind."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let an impatient second Ctrl-C not cut the clean-up short."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ray_address() -> str:
    """Give the address of the Ray cluster that the user wants the sites on; empty for a Ray of our own."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if address == "local" else address


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Let a Ctrl-C or a termination wait until what must not be cut in two is done."""
    numbers, came = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), []
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
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
