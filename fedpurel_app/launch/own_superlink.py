"""Run the app in a simulation from one command: start a SuperLink, submit, watch, stop what was started.

This adds what ``flwr run --stream`` lacks: a SuperLink of its own in a neutral directory (a shared one runs old code),
the run's outcome as exit code, and no process left behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurel_app.core.errors import RunError, StateError
from fedpurel_app.core.files import home
from fedpurel_app.launch.flower_run import SCRATCH, FlowerRun
from fedpurel_app.launch.processes import allow_open_files, ray_address
from fedpurel_app.reporting.run_folder import RunFolder

_CONNECTION = "fedpurel"
_NO_PROXY = ("NO_PROXY", "no_proxy")
_SOCKET = "/ray/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store"  # in it: the longest path of a socket
_START_TIMEOUT = 60.0  # seconds
_PATIENCE_OF_OTHERS = 5.0  # seconds


class Conductor(FlowerRun):
    """One run of the app in Flower's simulation runtime.

    Parameters
    ----------
    settings : mapping
        Checked run config, all keys.
    folder : Path
        The run folder; logs go to ``logs/`` in it.
    sites : int
        Number of simulated SuperNodes.
    cpus, gpus : float
        Resources of each site.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path, sites: int, cpus: int, gpus: float) -> None:
        super().__init__(settings, _CONNECTION)
        self._folder = folder
        self._federation = f"num-supernodes={sites} client-resources-num-cpus={cpus} client-resources-num-gpus={gpus:g}"

    def run(self, watch: Callable[[RunFolder], None]) -> str:
        """Run to the end.

        Parameters
        ----------
        watch : callable
            Called several times a second with the run folder, to show what is new.

        Returns
        -------
        str
            Flower's word for how it ended: "finished:completed", "finished:failed" or "finished:stopped".

        Raises
        ------
        RunError
            When Flower could not be started or refused the app.
        KeyboardInterrupt
            On Ctrl-C or a termination signal, after the run was stopped.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(self._folder)
        folder.forget_wish_to_stop()
        self._attempt_before = _attempt(folder)
        try:
            return self._conduct(lambda: self._look(watch))
        finally:
            folder.forget_wish_to_stop()

    # --- parts ------------------------------------------------------------------------------------------------------

    def _look(self, watch: Callable[[RunFolder], None]) -> None:
        """Show what is new; when the run was asked to end, do not wait for more than its outcome."""
        folder = RunFolder(self._folder)
        watch(folder)
        self._interrupts.check()
        if self._interrupts.asked and folder.summary() is not None:
            raise KeyboardInterrupt

    def _answer_interrupt(self) -> tuple[str, bool]:
        folder = RunFolder(self._folder)
        if folder.summary() is not None:
            return "the run is over: cleaning up", False
        if _attempt(folder) == self._attempt_before:
            return "stopping now: no round has begun", False
        try:
            folder.wish_to_stop()
            return f"stopping after round {folder.rounds()[-1]['round'] + 1}; press again to stop now", True
        except (OSError, StateError):
            return "stopping now", False

    @property
    def _logs(self) -> Path:
        return RunFolder(self._folder).log.parent

    @property
    def _folder_of_scratch(self) -> str:
        return short_folder([tempfile.gettempdir(), "/tmp"])

    @property
    def _own_environment(self) -> dict[str, str]:
        return {
            # Everything that is started talks to this machine alone: no proxy may come in between.
            **{name: ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"])) for name in _NO_PROXY},
            "FEDPUREL_HOME": str(home()),
            "FLWR_HOME": str(self._scratch / "flwr"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            # Left unset, Ray joins whatever cluster was last started on this machine, whoever did it.
            "RAY_ADDRESS": ray_address() or "local",
            # What a Ray of our own leaves there goes when the run is over; it may belong to nobody else.
            **({} if ray_address() else {"RAY_TMPDIR": str(self._scratch)}),
        }

    def _begin(self) -> None:
        """Start a SuperLink on a free port and make it known to ``flwr`` as a connection."""
        allow_open_files()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        flower = self._scratch / "flwr"
        flower.mkdir()
        (flower / "config.toml").write_text(
            f'[superlink]\ndefault = "{_CONNECTION}"\n[superlink.{_CONNECTION}]\n'
            f'address = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--database", str(self._scratch / "state.db")]
        process = self._spawn(command, "superlink.log")
        deadline = time.monotonic() + _START_TIMEOUT
        while not _is_healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"Flower's SuperLink did not start; see {self._logs / 'superlink.log'}.")
            time.sleep(0.1)

    def _submit(self, *more: str) -> None:
        super()._submit("--federation-config", self._federation, *more)

    def _end(self, interrupted: bool) -> None:
        """End every process that was started, at once: what they write is whole at any time.

        Those that use a Ray of other people may take their leave of it.
        """
        self._family.stop(_PATIENCE_OF_OTHERS if ray_address() else 0.0)


def short_folder(candidates: Sequence[str]) -> str:
    """Choose a folder for temporary files below which the paths of Ray's sockets are short enough.

    Parameters
    ----------
    candidates : sequence of str
        The first that can be used is taken.

    Raises
    ------
    RunError
        When none can.
    """
    room = (104 if sys.platform == "darwin" else 108) - 1 - len(f"/{SCRATCH}12345678{_SOCKET}")
    for folder in candidates:
        if len(os.fsencode(folder)) <= room and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise RunError(
        f"Ray keeps sockets in the folder for temporary files, whose path may have {room} bytes and must be writable: "
        f"{' and '.join(dict.fromkeys(candidates))} cannot be used. Set TMPDIR to another one."
    )


def _attempt(folder: RunFolder) -> int:
    """Return the number of the attempt that last had a round before it; 0 where none had."""
    with contextlib.suppress(StateError, KeyError, TypeError, ValueError):
        return int(folder.read_json("state.json")["attempt"])
    return 0


def _is_healthy(port: int) -> bool:
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
