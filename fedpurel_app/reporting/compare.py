"""A table of runs: one row for each setting, seeds averaged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedpurel_app.core.errors import StateError
from fedpurel_app.core.files import csv_text, write_atomically
from fedpurel_app.reporting.console import COLUMNS, number
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.settings import names, setting, settings

_MODELS = {"global": "GM", "global_at_sites": "GM at sites", "personalized": "PM"}
_NAMING = ("algorithm", "peft", "dataset")
# Keys that make data and class groups, and so the zero-shot row.
_TAIL = (
    "dataset",
    "dataset-path",
    "backbone",
    "imbalance-factor",
    "max-per-class",
    "class-order",
    "keep-empty-classes",
    "group-by",
)

Run = tuple[dict[str, Any], dict[str, Any]]  # settings and summary
Row = tuple[str, dict[str, dict[str, list[float]]], list[int]]


def compare(paths: Sequence[Path], stem: Path) -> list[str]:
    """Compare completed runs.

    Parameters
    ----------
    paths : sequence of Path
        Folders; those that hold no completed run are left out with a note.
    stem : Path
        The table is written to ``<stem>.csv`` and ``<stem>.md``.

    Returns
    -------
    list of str
        The Markdown table, then notes on what was left out and written.

    Raises
    ------
    StateError
        When no run is completed, or the table cannot be written.
    """
    done, notes = _completed(paths)
    if not done:
        raise StateError("\n".join(["none of these is a completed run; there is nothing to compare.", *notes]))
    rows = _rows(done)
    header = ["method", "seeds", *(f"{title} {column}" for title in _MODELS.values() for column in COLUMNS)]
    markdown = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    columns = ["method", "seeds", *(f"{name} {part}" for name in header[2:] for part in ("mean", "sd"))]
    lines: list[list[str]] = []
    for name, table, seeds in rows:
        cells = [table[model][column] for model in _MODELS for column in COLUMNS]
        markdown.append(
            f"| {name.replace('|', '/')} | {len(seeds)} | {' | '.join(_mean_sd(values) for values in cells)} |"
        )
        lines.append([name, " ".join(map(str, seeds)), *(part for values in cells for part in _numbers(values))])
    files = {f"{stem}.csv": csv_text(columns, lines), f"{stem}.md": "\n".join(markdown) + "\n"}
    for name, content in files.items():
        try:
            write_atomically(Path(name), content.encode())
        except OSError as error:
            raise StateError(f"{name} cannot be written ({error.strerror}): choose another --out.") from error
    return [*markdown, *notes, f"written: {', '.join(files)}"]


def _completed(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Read settings and summary of all completed runs, the last of each seed and setting; note the others."""
    found: dict[tuple[Any, ...], tuple[Run, Path]] = {}
    notes, data_paths = [], dict[str, str]()
    for path in paths:
        try:
            folder = RunFolder.open(path)
            config, summary = settings(folder), folder.summary()
        except StateError as error:
            notes.append(f"left out: {error}")
            continue
        if not summary or summary["outcome"] != "completed":
            notes.append(f"left out, not completed: {path}")
            continue
        # The same data in two places are no difference.
        config["dataset-path"] = data_paths.setdefault(config.pop("data"), config["dataset-path"])
        key = (config["seed"], *setting(config))
        if key in found:
            notes.append(f"left out, a later run has the same settings and seed: {found[key][1]}")
        found[key] = ((config, summary), path)
    return [run for run, _ in found.values()], notes


def _rows(done: Sequence[Run]) -> list[Row]:
    """Group runs that differ in free keys only; zero-shot has a row for each data set and long tail."""
    rows: list[Row] = []
    tails = _groups(done, _TAIL)
    for name, members in zip(names([members[0][0] for members in tails], ("dataset",), _TAIL), tails, strict=True):
        one = {summary.get("seed", 0): summary for _, summary in members}
        zero_shot = {"global": _columns([summary.get("zero_shot") for summary in one.values()])}
        empty = {model: _columns([]) for model in _MODELS}
        rows.append((f"zero-shot, {name}", {**empty, **zero_shot}, sorted(one)))
    groups = _groups(done, None)
    for name, members in zip(names([members[0][0] for members in groups], _NAMING, None), groups, strict=True):
        table = {model: _columns([summary.get(model) for _, summary in members]) for model in _MODELS}
        rows.append((name, table, sorted(summary.get("seed", 0) for _, summary in members)))
    return rows


def _groups(done: Sequence[Run], keys: Iterable[str] | None) -> list[list[Run]]:
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in done:
        groups.setdefault(setting(run[0], keys), []).append(run)
    return list(groups.values())


def _columns(scores: Sequence[dict[str, float | None] | None]) -> dict[str, list[float]]:
    return {
        column: [value for one in scores if one is not None and (value := one.get(column)) is not None]
        for column in COLUMNS
    }


def _numbers(values: Sequence[float]) -> list[str]:
    if not values:
        return ["", ""]
    return [f"{fmean(values):.4f}", f"{stdev(values):.4f}" if len(values) > 1 else ""]


def _mean_sd(values: Sequence[float]) -> str:
    if not values:
        return number(None)
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
