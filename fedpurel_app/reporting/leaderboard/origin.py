"""Where a table's numbers come from: command, machine, versions, time and seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fedpurel_app.core.names import clean
from fedpurel_app.reporting.leaderboard.sweep import Place, Sweep, Trial
from fedpurel_app.reporting.sweep_schemas import Plan

_VERSIONS = ("fedpurel-app", "flwr", "torch", "numpy", "python")


def origin(sweep: Sweep) -> list[str]:
    """Return what a table says of the sweep below its numbers."""
    seeds = sorted({cell.seed for cell in sweep.plan.cells})
    planned = len({cell.run for cell in sweep.plan.cells})
    machines = Counter(_machine(trial) for trial in sweep.runs.values())
    seconds = sum(trial.seconds or 0.0 for trial in sweep.runs.values())
    told = "; ".join(text if len(machines) == 1 else f"{text} ({count} runs)" for text, count in machines.items())
    return [
        f"Made by: {clean(sweep.plan.command) or 'fedpurel sweep'}; fedpurel table {clean(sweep.path.name)}",
        f"Runs: {len(sweep.runs)} of {planned} completed, {_in_hours(seconds)} of wall time in all; "
        f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}: {_ranges(seeds)}",
        f"Machine: {told}",
    ]


def chosen(plan: Plan, place: Place) -> list[str]:
    """Return, for each setting that tuning chose, the rule and which methods ran with which value."""
    if plan.tuned is None:
        return []
    notes = []
    for key in plan.tuned.keys:
        by_value: dict[str, list[str]] = {}
        for method, trials in place.trials.items():
            found = {
                str(trial.run.settings[key]) for trial in trials.values() if trial.trains and key in trial.run.settings
            }
            for value in sorted(found):
                by_value.setdefault(value, []).append(clean(method, 60))
        values = "; ".join(f"{value}: {', '.join(methods)}" for value, methods in by_value.items())
        notes += [f"Chosen by {clean(plan.tuned.rule)}, {key} {values}."] if values else []
    return notes


def _machine(trial: Trial) -> str:
    content: Mapping[str, Any] = trial.run.folder.read_json("config.json")
    machine, versions = content.get("machine"), content.get("versions")
    parts = []
    if isinstance(machine, dict):
        parts.append(f"{machine.get('cpu') or 'unknown CPU'}, {machine.get('cores', '–')} cores")
        parts += [str(machine["gpu"])] if machine.get("gpu") else []
    threads = trial.run.folder.launch().get("cpus-per-site")
    parts += [f"{threads} CPU{'' if threads == 1 else 's'} a site"] if threads else []
    if isinstance(versions, dict):
        parts.append(", ".join(f"{name} {versions[name]}" for name in _VERSIONS if name in versions))
    return clean("; ".join(parts)) or "not known"


def _in_hours(seconds: float) -> str:
    """Write a duration.

    >>> _in_hours(50), _in_hours(125), _in_hours(7260)
    ('50 s', '2 min', '2 h 1 min')
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _ranges(numbers: list[int]) -> str:
    """Write ascending whole numbers briefly.

    >>> _ranges([1, 2, 3, 7, 9, 10])
    '1-3, 7, 9-10'
    """
    parts: list[list[int]] = []
    for one in numbers:
        if parts and one == parts[-1][-1] + 1:
            parts[-1].append(one)
        else:
            parts.append([one])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
