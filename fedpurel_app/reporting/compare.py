"""A table of runs: one row for each setting, seeds averaged."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedpurel_app.errors import StateError
from fedpurel_app.files import write_atomically
from fedpurel_app.reporting.console import COLUMNS, number
from fedpurel_app.reporting.run_folder import RunFolder

_MODELS = {"global": "GM", "global_at_sites": "GM at sites", "personalized": "PM"}
# Keys in which runs of one setting may differ.
_FREE = frozenset({"seed", "out", "resume-from", "experiment-id", "state-dir", "device", "console", "tracker"})
_NAMING = ("algorithm", "peft", "dataset")

Row = tuple[str, dict[str, dict[str, list[float]]], list[int]]


def compare(folders: Sequence[RunFolder], stem: Path) -> list[str]:
    """Compare completed runs.

    Parameters
    ----------
    folders : sequence of RunFolder
    stem : Path
        The table is written to ``stem.csv`` and ``stem.md``.

    Returns
    -------
    list of str
        The Markdown table, then notes on runs that were left out.
    """
    runs = [(_settings(folder), folder.summary(), folder) for folder in folders]
    _name_data(settings for settings, _, _ in runs)
    done = [(config, summary) for config, summary, _ in runs if summary and summary["outcome"] == "completed"]
    if not done:
        raise StateError("none of these runs is completed; there is nothing to compare.")
    left_out = [folder.path for _, summary, folder in runs if not summary or summary["outcome"] != "completed"]
    rows = _rows(done)
    header = ["method", "seeds", *(f"{title} {column}" for title in _MODELS.values() for column in COLUMNS)]
    markdown = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "seeds", *(f"{name} {part}" for name in header[2:] for part in ("mean", "sd"))])
    for name, table, seeds in rows:
        cells = [table[model][column] for model in ("zero_shot", *_MODELS) if model in _MODELS for column in COLUMNS]
        markdown.append(f"| {name} | {len(seeds)} | {' | '.join(_mean_sd(values) for values in cells)} |")
        writer.writerow([name, " ".join(map(str, seeds)), *(part for values in cells for part in _numbers(values))])
    write_atomically(stem.with_suffix(".csv").absolute(), text.getvalue().encode())
    write_atomically(stem.with_suffix(".md").absolute(), ("\n".join(markdown) + "\n").encode())
    return [*markdown, *(f"left out, not completed: {path}" for path in left_out)]


def _settings(folder: RunFolder) -> dict[str, Any]:
    """Give a run's settings, with the content of its data in the place of where they lie."""
    content = folder.read_json("config.json")
    return {**content["config"], "data": content.get("data", "")}


def _name_data(settings: Iterable[dict[str, Any]]) -> None:
    """Give equal data one path, so that the same file in two places is no difference."""
    paths: dict[str, str] = {}
    for one in settings:
        one["dataset-path"] = paths.setdefault(one.pop("data"), one["dataset-path"])


def _rows(done: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[Row]:
    """Group runs that differ in free keys only; zero-shot is a row of its own for each data set."""
    groups: dict[tuple[Any, ...], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for config, summary in done:
        key = tuple(sorted((name, value) for name, value in config.items() if name not in _FREE))
        groups.setdefault(key, []).append((config, summary))
    names = _names([members[0][0] for members in groups.values()])
    rows: list[Row] = []
    for dataset in dict.fromkeys(config["dataset"] for config, _ in done):
        one = {summary["seed"]: summary for config, summary in done if config["dataset"] == dataset}
        zero_shot = {"global": _columns([summary.get("zero_shot") for summary in one.values()])}
        empty = {model: _columns([]) for model in _MODELS}
        rows.append((f"zero-shot, {dataset}", {**empty, **zero_shot}, sorted(one)))
    for name, members in zip(names, groups.values(), strict=True):
        table = {model: _columns([summary.get(model) for _, summary in members]) for model in _MODELS}
        rows.append((name, table, sorted(summary["seed"] for _, summary in members)))
    return rows


def _names(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Name settings by what tells them apart."""
    varying = [
        key
        for key in configs[0]
        if key not in _FREE and key not in _NAMING and len({str(config.get(key)) for config in configs}) > 1
    ]
    return [
        ", ".join([*(str(config[key]) for key in _NAMING), *(f"{key} {config.get(key)}" for key in varying)])
        for config in configs
    ]


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
