"""The processes that a sweep's runs go on in."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpurel_app.launch.processes import with_package

_COMMAND = (sys.executable, "-m", "fedpurel_app.cli.worker")
_RUNS = 50  # that one process does: what libraries keep of a run shall not add up


@dataclass(frozen=True)
class Answer:
    """How a run ended in a worker.

    Attributes
    ----------
    outcome : str
        "completed", "stopped" or "failed".
    error : str
    memory, gpu_memory : int
        The most that the process has had so far [bytes]; 0 where it is not known.
    """

    outcome: str
    error: str = ""
    memory: int = 0
    gpu_memory: int = 0


class Worker:
    """A process that runs what it is told, and a new one where it has died.

    Parameters
    ----------
    environment : mapping
        Of the process.
    log : Path
        What it says while no run goes on in it.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment, self._log = with_package(environment), log
        self._process: subprocess.Popen[str] | None = None
        self._runs = 0

    def run(self, request: Mapping[str, Any]) -> Answer:
        """Run, and wait for the end of it; a process that dies of a run has failed that one alone."""
        if self._runs >= _RUNS:
            self.close()
        process = self._started()
        self._runs += 1
        line = ""
        if process.stdin is not None and process.stdout is not None:
            with contextlib.suppress(OSError):
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
        if not line:
            process.communicate()
            code, self._process = process.returncode, None
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return Answer("failed", f"its process died ({how}); signal 9 may be too little memory")
        return Answer(**json.loads(line))

    def close(self) -> None:
        """Let the process end."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.communicate()
        self._process, self._runs = None, 0

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            with self._log.open("a") as log:
                self._process = subprocess.Popen(
                    _COMMAND,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=self._environment,
                    cwd=os.sep,
                    start_new_session=True,  # Ctrl-C is for the sweep, which lets runs end with their round
                )
            self._runs = 0
        return self._process
