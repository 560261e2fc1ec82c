"""A run of the app on a SuperLink: submit, follow, ask how it ended, stop. No engine: Flower runs everything."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurel_app import __version__
from fedpurel_app.config import to_toml
from fedpurel_app.core.errors import RunError
from fedpurel_app.core.names import FLOWER_LOG
from fedpurel_app.launch.flower_log import cause
from fedpurel_app.launch.processes import Interrupts, ProcessFamily, signals_held, with_package

SCRATCH = "fedp-"  # begins the name of a run's folder for temporary files
_STOP_TIMEOUT, _FLWR_TIMEOUT = 30.0, 120.0  # seconds


class FlowerRun(ABC):
    """A run on the SuperLink that a connection of Flower's configuration names.

    Parameters
    ----------
    settings : mapping
        Checked run config, all keys.
    connection : str
        Name of the connection, in the configuration that :attr:`_environment` points ``flwr`` at.
    """

    def __init__(self, settings: Mapping[str, Any], connection: str) -> None:
        self._settings, self._connection = settings, connection
        self._family = ProcessFamily()
        self._interrupts = Interrupts(self._answer_interrupt)
        self.run_id, self.status, self.details = "", "", ""  # as last heard of Flower
        self.cause = ""  # the error that its log ended with

    def _conduct(self, look: Callable[[], None]) -> str:
        """Run to the end; gives Flower's word for how it ended.

        Parameters
        ----------
        look : callable
            Called several times a second, to show what is new.
        """
        with tempfile.TemporaryDirectory(
            prefix=SCRATCH, dir=self._folder_of_scratch, ignore_cleanup_errors=True
        ) as scratch:
            self._scratch, interrupted = Path(scratch), False
            with self._family.guarded(self._scratch):
                try:
                    with self._interrupts.handled():
                        self._begin()
                        self._submit()
                        return self._follow(look)
                except KeyboardInterrupt:
                    interrupted = True
                    raise
                finally:
                    with signals_held():
                        self._end(interrupted)
                    self.cause = cause(self._logs / FLOWER_LOG)

    # --- what differs from one kind of SuperLink to the other --------------------------------------------------------

    @abstractmethod
    def _begin(self) -> None:
        """Make the SuperLink reachable."""

    @abstractmethod
    def _end(self, interrupted: bool) -> None:
        """Stop what was started."""

    @abstractmethod
    def _answer_interrupt(self) -> tuple[str, bool]:
        """Ask the run to end, if it can be asked: give the line that says so, and whether it is waited for."""

    @property
    @abstractmethod
    def _logs(self) -> Path:
        """Folder of what started processes print."""

    @property
    def _own_environment(self) -> dict[str, str]:
        """Environment of started processes beyond what every run needs."""
        return {}

    @property
    def _folder_of_scratch(self) -> str | None:
        """Where the folder of things that nobody needs afterwards is made; None for the system's own choice."""
        return None

    @property
    def _folder_of_commands(self) -> Path:
        """Where commands are started."""
        return self._scratch

    # --- what is common ---------------------------------------------------------------------------------------------

    @property
    def _environment(self) -> dict[str, str]:
        scripts = sysconfig.get_path("scripts")  # Flower starts its own commands by name
        environment = {
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            **os.environ,
            "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")]),
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONUNBUFFERED": "1",  # a log that is followed must not lag
            **self._own_environment,
            **self._family.mark,
        }
        return with_package(environment)

    def _submit(self, *more: str) -> None:
        """Submit an app that names the installed package as its components; ``more`` are arguments of flwr run."""
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
        self.run_id = str(self._flwr("run", str(app), self._connection, *more)["run-id"])

    def _follow(self, look: Callable[[], None]) -> str:
        """Show progress until Flower's log ends, then ask how the run ended."""
        self._stream(look)
        while not self._ask().startswith("finished"):  # the log can end early
            look()
            time.sleep(2.0)
        look()
        return self.status

    def _stream(self, look: Callable[[], None]) -> None:
        """Take Flower's log of the run down, until it ends."""
        log = self._spawn(["flwr", "log", self.run_id, self._connection, "--stream"], FLOWER_LOG)
        while log.poll() is None:
            look()
            self._family.note()
            time.sleep(0.3)

    def _ask(self) -> str:
        """Ask Flower how the run stands: "running", "finished:completed", ..."""
        answer = self._flwr("list", self._connection, "--run-id", self.run_id)["runs"][0]
        self.status, self.details = str(answer["status"]), str(answer.get("status-details", ""))
        return self.status

    def _stop_run(self) -> None:
        """Stop the run if it goes on, and wait until it has ended."""
        if not self.run_id or self._ask().startswith("finished"):
            return
        try:
            self._flwr("stop", self.run_id, self._connection)
        except RunError:
            if not self._ask().startswith("finished"):  # else it was quicker
                raise
        deadline = time.monotonic() + _STOP_TIMEOUT
        while not self._ask().startswith("finished") and time.monotonic() < deadline:
            time.sleep(0.5)

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        """Run a ``flwr`` command that answers in JSON; raises RunError with its reason when it fails."""
        try:
            result = subprocess.run(
                ["flwr", *arguments, "--format", "json"],
                cwd=self._folder_of_commands,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=_FLWR_TIMEOUT,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise RunError(f"flwr {arguments[0]} gave no answer within {_FLWR_TIMEOUT:g} s.") from None
        reason = result.stdout + result.stderr
        with contextlib.suppress(ValueError):
            answer = json.loads(result.stdout)
            if result.returncode == 0 and answer.get("success", True):
                return dict(answer)
            reason = str(answer.get("error-message", reason))
        raise RunError(f"flwr {arguments[0]} failed:\n{reason.strip()}")

    def _spawn(self, command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        """Start a process out of reach of the terminal's Ctrl-C, which is ours to handle."""
        executable = shutil.which(command[0], path=self._environment["PATH"])
        if executable is None:
            raise RunError(f'{command[0]} is not installed beside this Python: pip install "flwr[simulation]".')
        with (self._logs / log).open("ab") as file:
            return subprocess.Popen(
                [executable, *command[1:]],
                cwd=self._folder_of_commands,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
