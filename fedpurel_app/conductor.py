"""Run the app under Flower from one command: start a SuperLink, submit, watch, stop what was started.

No engine: Flower runs everything. This adds what ``flwr run --stream`` lacks: an own SuperLink from a neutral directory
(a shared one runs stale code), the run's outcome as exit code, and no process left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurel_app import __version__
from fedpurel_app.config import to_toml
from fedpurel_app.errors import RunError
from fedpurel_app.files import home
from fedpurel_app.processes import ProcessFamily, ray_address, signals_as_interrupts, signals_held
from fedpurel_app.reporting.run_folder import RunFolder

_CONNECTION = "fedpurel"
_NO_PROXY = ("NO_PROXY", "no_proxy")
_START_TIMEOUT, _STOP_TIMEOUT = 60.0, 30.0  # seconds


class Conductor:
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
        self._settings, self._folder = settings, folder
        self._federation = f"num-supernodes={sites} client-resources-num-cpus={cpus} client-resources-num-gpus={gpus:g}"
        self._logs = folder / "logs"
        self._run_id = ""
        self._family = ProcessFamily()

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
        with tempfile.TemporaryDirectory(prefix="fedpurel-", ignore_cleanup_errors=True) as scratch:
            self._scratch = Path(scratch)
            try:
                with signals_as_interrupts():
                    self._start_superlink()
                    self._submit()
                    return self._follow(watch)
            finally:
                with signals_held():
                    self._stop()

    # --- parts ------------------------------------------------------------------------------------------------------

    @property
    def _environment(self) -> dict[str, str]:
        scripts = sysconfig.get_path("scripts")  # Flower starts its own commands by name
        environment = {
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            **os.environ,
            # Everything that is started talks to this machine alone: no proxy may come in between.
            **{name: ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"])) for name in _NO_PROXY},
            "FEDPUREL_HOME": str(home()),
            "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")]),
            "FLWR_HOME": str(self._scratch / "flwr"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            # Left unset, Ray joins whatever cluster was last started on this machine, whoever did it.
            "RAY_ADDRESS": ray_address() or "local",
            **self._family.mark,
        }
        package = Path(__file__).parent.parent
        if package not in {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
        return environment

    def _start_superlink(self) -> None:
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

    def _submit(self) -> None:
        """Submit an app that names the installed package as its components."""
        app = self._scratch / "app"
        app.mkdir()
        config = "\n".join(f"{key} = {to_toml(value)}" for key, value in self._settings.items())
        (app / "pyproject.toml").write_text(
            f'[project]\nname = "fedpurel-run"\nversion = "{__version__}"\ndescription = "FedPuReL"\n'
            'license = "Apache-2.0"\ndependencies = []\n'
            '[tool.flwr.app]\npublisher = "fedpurel"\n[tool.flwr.app.components]\n'
            'serverapp = "fedpurel_app.server_app:app"\nclientapp = "fedpurel_app.client_app:app"\n'
            f"[tool.flwr.app.config]\n{config}\n",
            "utf-8",
        )
        answer = self._flwr("run", str(app), _CONNECTION, "--federation-config", self._federation)
        self._run_id = str(answer["run-id"])

    def _follow(self, watch: Callable[[RunFolder], None]) -> str:
        """Show progress until Flower's log ends, then ask how the run ended."""
        folder = RunFolder(self._folder)
        log = self._spawn(["flwr", "log", self._run_id, _CONNECTION, "--stream"], "flower.log")
        while log.poll() is None:
            watch(folder)
            self._family.note()
            time.sleep(0.3)
        while (status := self._status()).startswith(("pending", "starting", "running")):  # the log can end early
            watch(folder)
            time.sleep(2.0)
        watch(folder)
        return status

    def _status(self) -> str:
        runs = self._flwr("list", _CONNECTION, "--run-id", self._run_id)["runs"]
        return str(runs[0]["status"])

    def _stop(self) -> None:
        """Stop the run if it goes on, then every process that was started."""
        if self._run_id and self._family.note():
            with contextlib.suppress(RunError, subprocess.TimeoutExpired):
                if not self._status().startswith("finished"):
                    self._flwr("stop", self._run_id, _CONNECTION)
                    deadline = time.monotonic() + _STOP_TIMEOUT
                    while not self._status().startswith("finished") and time.monotonic() < deadline:
                        time.sleep(0.5)
        self._family.stop()

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        """Run a ``flwr`` command that answers in JSON."""
        result = subprocess.run(
            ["flwr", *arguments, "--format", "json"],
            cwd=self._scratch,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            start_new_session=True,
        )
        with contextlib.suppress(ValueError):
            answer = json.loads(result.stdout)
            if result.returncode == 0 and answer.get("success", True):
                return dict(answer)
        raise RunError(f"flwr {arguments[0]} failed:\n{(result.stdout + result.stderr).strip()}")

    def _spawn(self, command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        """Start a process out of reach of the terminal's Ctrl-C, which is ours to handle."""
        executable = shutil.which(command[0], path=self._environment["PATH"])
        if executable is None:
            raise RunError(f'{command[0]} is not installed beside this Python: pip install "flwr[simulation]".')
        with (self._logs / log).open("ab") as file:
            return subprocess.Popen(
                [executable, *command[1:]],
                cwd=self._scratch,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _is_healthy(port: int) -> bool:
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
