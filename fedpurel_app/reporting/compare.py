"""A table of runs: one row for each setting, seeds averaged."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fedpurel_app.core.errors import StateError
from fedpurel_app.core.files import csv_text, write_atomically
from fedpurel_app.reporting.columns import COLUMNS, digits_of, number, title_of
from fedpurel_app.reporting.finished import Run, completed, grouped, mean_sd
from fedpurel_app.reporting.novel import LEGEND as NOVEL
from fedpurel_app.reporting.novel import novel_lines
from fedpurel_app.reporting.selection import chosen
from fedpurel_app.reporting.settings import label_runs, setting

_MODELS = {"global": "GM", "global_at_sites": "GM at sites", "personalized": "PM"}
_BEST = {"best.global": "best GM", "best.global_at_sites": "best at sites", "best.personalized": "best PM"}
_LEGEND = "in %, mean ± sd. GM: global model, on the server's test set or at sites on theirs; PM: personalized models."
_LEGEND_DETAILS = "NLL in nats; few > many: few-shot images taken for many-shot classes; ECE in 15 bins."
_LEGEND_BEST = "Test scores of the last round; best: of the round that the sites' validation parts chose, by select-by."

_NAMING = ("algorithm", "peft", "dataset")
# Keys that make data and class groups, and so the zero-shot row.
_TAIL = (
    "dataset",
    "dataset-path",
    "data",
    "backbone",
    "imbalance-factor",
    "max-per-class",
    "shots",
    "class-order",
    "keep-empty-classes",
    "group-by",
    "novel-classes",
)

_FIRST, _WIDTH = 15, 11  # characters of the first column, and of the others

Row = tuple[str, dict[str, dict[str, list[float]]], list[int]]


def compare(paths: Sequence[Path], stem: Path | None = None) -> list[str]:
    """Compare completed runs.

    Parameters
    ----------
    paths : sequence of Path
        Folders; those that hold no completed run are left out with a note.
    stem : Path, optional
        The table is written to ``<stem>.csv`` and ``<stem>.md``; else nothing is written.

    Returns
    -------
    list of str
        The table as wide as the terminal, one line for each model of a setting, then what the models are, and notes on
        what was left out and written.

    Raises
    ------
    StateError
        When no run is completed, or the table cannot be written.
    """
    done, notes = _completed(paths)
    if not done:
        raise StateError("\n".join(["none of these is a completed run; there is nothing to compare.", *notes]))
    rows = _rows(done)
    if stem is not None:
        for name, content in {f"{stem}.csv": _csv(rows), f"{stem}.md": _markdown(rows)}.items():
            try:
                write_atomically(Path(name), content.encode())
            except OSError as error:
                raise StateError(f"{name} cannot be written ({error.strerror}): choose another --out.") from error
        notes.append(f"written: {stem}.csv, {stem}.md")
    best = [_LEGEND_BEST] if len(_titles(rows)) > len(_MODELS) else []
    return [*_terminal(rows), _LEGEND, _LEGEND_DETAILS, *best, *_novel(done), *notes]


def _novel(done: Sequence[Run]) -> list[str]:
    """Print base and novel accuracies setting by setting; nothing where no run names novel classes."""
    groups = grouped(done)
    lines = [
        f"{name}: {line}"
        for name, members in zip(_labels(groups, _NAMING, None), groups, strict=True)
        for line in novel_lines([run.summary for run in members])
    ]
    return [*lines, NOVEL] if lines else []


def _titles(rows: Sequence[Row]) -> dict[str, str]:
    """Return what to call each model of a table: those of the last rounds, and the best ones that any run has."""
    return {**_MODELS, **{key: title for key, title in _BEST.items() if any(any(row[1][key].values()) for row in rows)}}


def _terminal(rows: Sequence[Row]) -> list[str]:
    """Lay the table out for the terminal: a line for each setting, which may be long, below it one for each model."""
    width = max(70, shutil.get_terminal_size((100, 24)).columns)
    console = Console(file=io.StringIO(), width=width, no_color=True)
    room = (width - _FIRST) // (_WIDTH + 1)
    parts = [COLUMNS[start : start + room] for start in range(0, len(COLUMNS), room)]
    with console.capture() as captured:
        for columns in parts:
            if any(scores[column] for _, table, _ in rows for scores in table.values() for column in columns):
                _print_part(console, rows, columns)
    return [line.rstrip() for line in captured.get().splitlines()]


def _print_part(console: Console, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Print as many columns as fit beside each other."""
    console.print(_grid(["", *map(title_of, columns)]))
    for name, models, seeds in rows:
        console.print(Text(f"{name} ({len(seeds)} seed{'s' if len(seeds) > 1 else ''})"))
        for model, title in _titles(rows).items():
            if any(models[model].values()):
                console.print(_grid([f"  {title}", *(_mean_sd(models[model], column) for column in columns)]))


def _grid(cells: Sequence[str]) -> Table:
    """Make one line of a table whose lines are apart."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    for index, _ in enumerate(cells):
        grid.add_column(width=_WIDTH if index else _FIRST, justify="right" if index else "left", no_wrap=True)
    grid.add_row(*map(escape, cells))
    return grid


def _markdown(rows: Sequence[Row]) -> str:
    titles = _titles(rows)
    header = ["method", "seeds", *(f"{title} {column}" for title in titles.values() for column in COLUMNS)]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for name, table, seeds in rows:
        cells = [_mean_sd(table[model], column) for model in titles for column in COLUMNS]
        lines.append(f"| {name.replace('|', '/')} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _csv(rows: Sequence[Row]) -> str:
    titles = _titles(rows)
    names = [f"{title} {column}" for title in titles.values() for column in COLUMNS]
    columns = ["method", "seeds", *(f"{name} {part}" for name in names for part in ("mean", "sd"))]
    lines = []
    for name, table, seeds in rows:
        cells = [part for model in titles for column in COLUMNS for part in _numbers(table[model][column])]
        lines.append([name, " ".join(map(str, seeds)), *cells])
    return csv_text(columns, lines)


def _completed(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Read all completed runs, the last of each seed and setting; note the others."""
    found: dict[tuple[Any, ...], Run] = {}
    places, notes = dict[str, str](), []
    for path in paths:
        try:
            run = completed(path, places)
        except StateError as error:
            notes.append(f"left out: {error}")
            continue
        key = (run.seed, *setting(run.settings))
        if key in found:
            notes.append(f"left out, a later run has the same settings and seed: {found[key].folder.path}")
        found[key] = run
    return list(found.values()), notes


def _rows(done: Sequence[Run]) -> list[Row]:
    """Group runs that differ in free keys only; zero-shot has a row for each data set and long tail."""
    rows: list[Row] = []
    tails, empty = grouped(done, _TAIL), {model: _columns([]) for model in (*_MODELS, *_BEST)}
    for name, members in zip(_labels(tails, ("dataset",), _TAIL), tails, strict=True):
        one = {run.seed: run.summary.get("zero_shot") for run in members}
        rows.append((f"zero-shot, {name}", {**empty, "global": _columns(list(one.values()))}, sorted(one)))
    groups = grouped(done)
    for name, members in zip(_labels(groups, _NAMING, None), groups, strict=True):
        best = [chosen(run.summary) for run in members]
        table = {model: _columns([run.summary.get(model) for run in members]) for model in _MODELS}
        table |= {key: _columns([one.get(key.removeprefix("best.")) for one in best]) for key in _BEST}
        rows.append((name, table, sorted(run.seed for run in members)))
    return rows


def _labels(groups: Sequence[Sequence[Run]], naming: Sequence[str], among: Iterable[str] | None) -> list[str]:
    return label_runs([members[0].settings for members in groups], naming, among)


def _columns(scores: Sequence[dict[str, float | None] | None]) -> dict[str, list[float]]:
    return {
        column: [value for one in scores if one is not None and (value := one.get(column)) is not None]
        for column in COLUMNS
    }


def _numbers(values: Sequence[float]) -> list[str]:
    if not values:
        return ["", ""]
    mean, sd = mean_sd(values)
    return [f"{mean:.4f}", "" if sd is None else f"{sd:.4f}"]


def _mean_sd(scores: Mapping[str, Sequence[float]], column: str) -> str:
    if not scores[column]:
        return number(None)
    (mean, sd), digits = mean_sd(scores[column]), digits_of(column)
    return number(mean, digits) + ("" if sd is None else f" ± {number(sd, digits)}")
