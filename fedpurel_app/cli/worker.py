"""A process that runs what it is told, one run after the other: no start-up for each, and no crash shared with others.

``python -m fedpurel_app.cli.worker`` reads a JSON object a line: ``{"folder": ..., "settings": {...}, "threads": 1}``,
perhaps with a folder to ``fork``, or ``{"folder": ..., "resume": true}``. It answers each with a line: ``{"outcome":
..., "error": ..., "memory": ..., "gpu_memory": ...}``, the peaks of this process in bytes. What Flower and the app say
goes into the run's log.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from fedpurel_app.core.errors import FedPurelError
from fedpurel_app.reporting.run_folder import RunFolder


def main() -> None:
    """Answer until there is nothing more to read."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    folder = RunFolder(Path(asked["folder"]))
    folder.log.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(folder.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    outcome, error = "failed", ""
    try:
        _run(folder, asked)
        summary = folder.summary() or {}
        outcome, error = summary.get("outcome", "failed"), summary.get("error") or ""
    except FedPurelError as raised:
        error = str(raised)
    except Exception as raised:  # of one run: the next one may do
        traceback.print_exc()  # into the log
        error = f"{type(raised).__name__}: {raised}"
    return {
        "outcome": outcome,
        "error": error,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "gpu_memory": _gpu_memory(),
    }


def _run(folder: RunFolder, asked: dict[str, Any]) -> None:
    from fedpurel_app.api import play
    from fedpurel_app.launch.choose import resumed, simulated
    from fedpurel_app.sweeps.fork import fork

    if not asked.get("resume"):
        config = simulated({**asked["settings"], "out": str(folder.path)})
        if not asked.get("fork"):
            play(config, folder.path, asked["threads"])
            return
        fork(RunFolder(Path(asked["fork"])), folder.path, config)
    play(resumed(folder.path, {}), folder.path)


def _gpu_memory() -> int:
    import torch

    return int(torch.cuda.max_memory_reserved()) if torch.cuda.is_available() else 0


if __name__ == "__main__":
    main()
