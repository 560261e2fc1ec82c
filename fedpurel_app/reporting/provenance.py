"""Where a run's numbers come from: versions, machine, code, and when its process began."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import fedpurel_app
from fedpurel_app.core.machine import cpu_name, usable_cores


def provenance() -> dict[str, Any]:
    """Return the versions of what computes, the host's name, its CPU and the folder of the code."""
    found = {"fedpurel-app": fedpurel_app.__version__, "python": platform.python_version()}
    for name in ("flwr", "torch", "open_clip_torch", "peft", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "versions": found,
        "host": platform.node(),
        "machine": {"cpu": cpu_name(), "cores": usable_cores()},
        "code": str(Path(fedpurel_app.__file__).parent),
    }


_started: list[float] = []  # when a run began in a process that was there before, as a notebook's


def start_now() -> None:
    """Count the time of the next run of this process from now on."""
    _started[:] = [time.time()]


def process_start() -> float:
    """Tell when this process began to work for a run, as ``time.time()`` counts."""
    return _started[0] if _started else float(psutil.Process().create_time())
