"""Run the app in a simulation from one command: start a SuperLink, submit, watch, stop what was started.

This adds what ``flwr run --stream`` lacks: an own SuperLink from a neutral directory (a shared one runs stale code),
the run's outcome as exit code, and no process left behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedpurel_app.errors import RunError
from fedpurel_app.files import home
from fedpurel_app.flower_run import FlowerRun
from fedpurel_app.processes import ray_address
from fedpurel_app.reporting.run_folder import RunFolder

_CONNECTION = "fedpurel"
_NO_PROXY = ("NO_PROXY", "no_proxy")
_START_TIMEOUT = 60.0  # seconds


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
        return self._conduct(lambda: watch(folder))

    # --- parts ------------------------------------------------------------------------------------------------------

    @property
    def _logs(self) -> Path:
        return RunFolder(self._folder).log.parent

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
        }

    def _begin(self) -> None:
        """Start a SuperLink on a free port and make it known to ``flwr`` as a connection."""
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
        """Stop the run if it goes on, then every process that was started."""
        if self.run_id and self._family.note():
            with contextlib.suppress(RunError):
                self._stop_run()
        self._family.stop()


def _is_healthy(port: int) -> bool:
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
