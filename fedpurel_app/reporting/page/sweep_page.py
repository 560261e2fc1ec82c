"""The page of a sweep: its tables and pictures, what is missing, and the ways to its runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedpurel_app import __version__
from fedpurel_app.core.names import clean
from fedpurel_app.reporting.leaderboard.board import Board
from fedpurel_app.reporting.leaderboard.document import Grid, difference_text, legend, p_text
from fedpurel_app.reporting.leaderboard.origin import origin
from fedpurel_app.reporting.leaderboard.picture import painted
from fedpurel_app.reporting.leaderboard.sweep import Sweep, look_at_sweep, read_sweep
from fedpurel_app.reporting.leaderboard.table import boards_of, section, sweep_notes
from fedpurel_app.reporting.page.blocks import Block, Items, Link, Page, Picture, Section, Table, Text, table
from fedpurel_app.reporting.page.pictures import svg_of
from fedpurel_app.reporting.plots import pyplot

REPORT = "report.html"
_MOST_PICTURES = 8  # a page is to be sent: more places than that have tables alone
_MOST_RUNS = 600


def sweep_page(path: Path, out: Path | None = None, refresh: int = 0) -> Page:
    """Return the page of a sweep as it is now, finished or not.

    Parameters
    ----------
    path : Path
        Its folder.
    out : Path, optional
        The file that the page is for: links to the runs' pages are relative to it. There are none without it.
    refresh : int
        Seconds after which a page of a sweep that is not complete loads itself anew; 0 = never, and then one run at
        least must be completed.

    Raises
    ------
    StateError
        When the sweep cannot be read, or has no completed run.
    """
    sweep = look_at_sweep(path)[0] if refresh else read_sweep(path)
    boards = boards_of(sweep) if sweep.runs else []
    sections = [_section(sweep, board, place) for place, board in enumerate(boards)]
    planned = len(dict.fromkeys(cell.run for cell in sweep.plan.cells))
    name = clean(sweep.plan.title or path.name, 120)
    if boards:
        sections.append(Section("notes", "How to read it", (Items((*legend(boards, "*"), *sweep_notes(sweep))),)))
    sections.append(_runs(sweep, out.parent if out else None))
    if boards:
        sections.append(Section("origin", "Where the numbers come from", (Items(tuple(origin(sweep))),)))
    compared = f", compared seed by seed with {clean(boards[0].against, 60)}" if boards else ""
    lead = (f"{len(sweep.runs)} of {planned} runs are completed: {len(sweep.plan.methods)} methods{compared}.",)
    done = len(sweep.runs) == planned
    state = "complete" if done else "incomplete"
    made = f"Sweep {clean(path.name, 200)}; made by fedpurel {__version__}."
    foot = f"{made} Scores: docs/metrics.md; tests: docs/tables.md."
    return Page(name, state, lead, _todo(sweep, done), tuple(sections), foot, 0 if done else refresh)


def _todo(sweep: Sweep, done: bool) -> tuple[tuple[str, str], ...]:
    """Return the commands: what runs the rest, or all of it again, and what writes its tables."""
    made = clean(sweep.plan.command, 1000)
    runs = ((f"{'Do it again' if done else 'Run what is missing'}:", made),) if made else ()
    return (*runs, ("Write its tables as Markdown, CSV and LaTeX:", f"fedpurel table {shlex.quote(str(sweep.path))}"))


def _section(sweep: Sweep, board: Board, place: int) -> Section:
    """Return the tables and the picture of a place of the sweep."""
    told = section(sweep, board)
    pictures: list[Block] = []
    if place < _MOST_PICTURES:
        pictures += [made] if (made := _picture(board, place)) else []
    elif place == _MOST_PICTURES:
        pictures.append(Text(f"From here on there are no pictures; fedpurel table {clean(sweep.path.name)} draws all."))
    grids = [_table(grid) for grid in told.grids]
    return Section(f"place-{place}", told.heading, (grids[0], *pictures, *grids[1:], Items(told.notes)))


def _picture(board: Board, place: int) -> Picture | None:
    """Return the forest of paired differences; None where nothing is compared."""
    figure = painted([board])
    if figure is None:
        return None
    columns = [one for one in board.columns if one[1] in ("all", "few")] or board.columns[:2]
    rows = [
        [row.name, model, score, difference_text(one, 1), p_text(one.p_holm)]
        for row in board.rows
        for model, score in columns
        if (one := row.comparisons.get((model, score))) is not None and not one.why
    ]
    caption = f"Paired differences from {clean(board.against, 60)}, in points"
    header = ("method", "model", "score", "difference, 95 % interval", "p, corrected")
    about = (
        "A dot and an interval for each method; filled where the corrected p is below 0.05, and its number beside it."
    )
    try:
        return Picture(svg_of(figure, f"forest-{place}", caption, about), table(caption, header, rows, 3))
    finally:
        pyplot().close(figure)


def _table(grid: Grid) -> Table:
    """Return a grid of texts as a table; what is bold elsewhere has a star."""
    rows = [tuple(f"{one.in_one_line}{' *' if one.bold and one.text else ''}" for one in row) for row in grid.rows]
    return Table(grid.caption, grid.header, tuple(rows))


def _runs(sweep: Sweep, base: Path | None) -> Section:
    """Return the list of runs; those that have a page of their own are links to it."""
    cells = list({cell.run: cell for cell in sweep.plan.cells}.values())
    missing = {(at, one.method, one.seed): one.why for at, place in enumerate(sweep.places) for one in place.missing}
    places = [place.at for place in sweep.places]
    rows: list[Sequence[Any]] = []
    for cell in cells[:_MOST_RUNS]:
        at = places.index({key: cell.at[key] for key in sweep.plan.axes})
        why = "completed" if cell.run in sweep.runs else missing.get((at, cell.method, cell.seed), "not run yet")
        rows.append([_way(sweep.path / "runs" / cell.run, base), cell.method, cell.seed, sweep.places[at].heading, why])
    left = f" The first {len(rows)} of {len(cells)}." if len(rows) < len(cells) else ""
    linked = "A run that has a page is a link to it; fedpurel report RUN writes one." if base else ""
    about = Text(f"{linked}{left}".strip() or "Each has a folder of its own, below runs/ in the sweep's.")
    return Section("runs", "Runs", (about, table("Runs", ("run", "method", "seed", "place", "state"), rows, 5)))


def _way(run: Path, base: Path | None) -> str | Link:
    page = run / REPORT
    return Link(run.name, quote(os.path.relpath(page, base))) if base and page.is_file() else run.name
