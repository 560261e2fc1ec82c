"""What a sweep says of a run that has ended."""

from __future__ import annotations

from pathlib import Path

from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.sweeps.workers import Answer


def how_it_ended(path: Path, answer: Answer) -> str:
    """Say how a run ended: its scores and seconds, or what went wrong.

    Parameters
    ----------
    path : Path
        Of its folder.
    answer : Answer
    """
    if answer.outcome != "completed":
        return f"{answer.outcome}: {answer.error.splitlines()[0]}" if answer.error else answer.outcome
    summary = RunFolder(path).summary() or {}
    scores = {"GM": summary.get("global") or summary.get("global_at_sites"), "PM": summary.get("personalized")}
    told = [
        f"{title} {one['all']:.1f}" + (f" (Few {one['few']:.1f})" if one.get("few") is not None else "")
        for title, one in scores.items()
        if one and one.get("all") is not None
    ]
    return ", ".join([*told, f"{summary['seconds']['total']:.0f} s"])
