"""How a run ended, written in one place, whoever finds out: the server, or the command that started it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.reporting.recorder import Recorder
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.summary import summarize_run

Outcome = Literal["completed", "stopped", "failed"]


def write_outcome(
    folder: RunFolder,
    settings: Mapping[str, Any],
    outcome: Outcome,
    error: str | None = None,
    recorder: Recorder | None = None,
) -> dict[str, Any]:
    """Write ``summary.json``.

    Parameters
    ----------
    folder : RunFolder
    settings : mapping
        Of the run, by key.
    outcome : {"completed", "stopped", "failed"}
    error : str, optional
        Why it did not go on.
    recorder : Recorder, optional
        That of the server, which knows the seconds and tells the trackers; else they are those of the rounds.

    Returns
    -------
    dict
        The summary.

    Raises
    ------
    DiskFullError
    """
    rounds = folder.rounds()
    seconds = recorder.seconds if recorder else sum(line["seconds"]["total"] or 0.0 for line in rounds)
    personalizes = METHODS[settings["algorithm"]].personalizes
    summary = summarize_run(rounds, settings, outcome, error, personalizes, seconds, folder.spent())
    if recorder:
        recorder.finish(summary)
    else:
        folder.write_json("summary.json", summary)
    return summary
