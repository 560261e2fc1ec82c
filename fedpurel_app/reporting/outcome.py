"""How a run ended, written in one place, whoever finds out: the server, or the command that started it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.reporting.recorder import Recorder
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.summary import summarize_run, without_effect

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


def state_of(outcome: Mapping[str, Any] | None, goes_on: bool) -> str:
    """Return "completed", "failed" or "stopped" as a run's outcome has it; without one "running" or "cut off"."""
    if outcome is not None:
        return str(outcome["outcome"])
    return "running" if goes_on else "cut off"


def can_go_on(folder: RunFolder) -> bool:
    """Tell whether a run that did not complete has a round to continue from, and one that is left to play."""
    rounds = folder.rounds()
    is_over = without_effect(rounds) and rounds[-1]["round"] == rounds[-1]["total_rounds"]
    return not is_over and (folder.path / "state.json").exists()


def how_to_go_on(folder: RunFolder) -> str:
    """Say what to do about a run that did not complete."""
    if can_go_on(folder):
        return f"Continue with: {folder.how_to_resume}"
    if (folder.path / "state.json").exists():
        return "All rounds were played: mend the cause and start it anew."
    return "No round was finished: start it anew."
