"""``fedpurel table``: reads a sweep, compares its methods seed by seed, and writes the tables of a paper."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.core.names import clean
from fedpurel_app.reporting.columns import COLUMNS
from fedpurel_app.reporting.leaderboard.board import SCORES, Board, all_columns, make_board, zero_shot_name
from fedpurel_app.reporting.leaderboard.document import board_notes, differences_grid, legend, scores_grid
from fedpurel_app.reporting.leaderboard.in_terminal import board_lines, width, wrapped
from fedpurel_app.reporting.leaderboard.layouts import Section, csv_of, csv_of_seeds, latex, markdown
from fedpurel_app.reporting.leaderboard.origin import chosen, origin
from fedpurel_app.reporting.leaderboard.picture import draw
from fedpurel_app.reporting.leaderboard.sweep import MODELS, Place, Sweep, read_sweep
from fedpurel_app.reporting.settings import place_in_words


def write_table(
    path: Path,
    against: str = "",
    models: Sequence[str] = tuple(MODELS),
    scores: Sequence[str] | None = None,
    stem: Path | None = None,
) -> list[str]:
    """Write the tables of a sweep as Markdown, CSV, LaTeX and a picture.

    Parameters
    ----------
    path : Path
        The sweep's folder; it need not be finished.
    against : str
        The method that others are compared with, or "zero-shot"; by default that of the plan, else its first.
    models : sequence of str
        "global", "personalized" or both.
    scores : sequence of str, optional
        Of ``fedpurel_app.reporting.columns.COLUMNS``; by default six of them.
    stem : Path, optional
        The files are ``<stem>.md``, ``.csv``, ``-seeds.csv``, ``.tex``, ``.png`` and ``.svg``; by default in the
        sweep's folder.

    Returns
    -------
    list of str
        The tables as wide as the terminal, what their numbers are, and the files.

    Raises
    ------
    ConfigError
        When a score or the method to compare with is unknown.
    StateError
        When the sweep cannot be read or has no completed run, or when a file cannot be written.
    """
    sweep, boards = read_boards(path, against, models, scores)
    stem = stem or path / "table"
    foot = [*sweep_notes(sweep), *origin(sweep)]
    written = _write(stem, sweep, boards, [*legend(boards), *foot])
    room = width()
    lines = [line for board in boards for line in board_lines(board, room)]
    endings = ",".join(one.name.removeprefix(stem.name) for one in written)
    return [*lines, *wrapped([*legend(boards, "*"), *foot], room), f"written: {stem}{{{endings}}}"]


def read_boards(
    path: Path, against: str = "", models: Sequence[str] = tuple(MODELS), scores: Sequence[str] | None = None
) -> tuple[Sweep, list[Board]]:
    """Read a sweep, and fill a table for each place that has a completed run; parameters as of :func:`write_table`.

    Raises
    ------
    ConfigError
        When a score or the method to compare with is unknown.
    StateError
        When the sweep cannot be read or has no completed run.
    """
    sweep = read_sweep(path)
    return sweep, boards_of(sweep, against, models, scores)


def boards_of(
    sweep: Sweep, against: str = "", models: Sequence[str] = tuple(MODELS), scores: Sequence[str] | None = None
) -> list[Board]:
    """Fill a table for each place of a sweep that has a completed run; as :func:`read_boards`."""
    scores = SCORES if scores is None else scores
    if unknown := [score for score in scores if score not in COLUMNS]:
        raise ConfigError(f"unknown score {', '.join(unknown)}: choose among {', '.join(COLUMNS)}.")
    chosen = _chosen(sweep, against)
    columns = all_columns(models, scores)
    return [
        make_board(place, zero_shot_name(place) if chosen == "zero-shot" else chosen, columns)
        for place in sweep.places
        if place.all_trials()
    ]


def _chosen(sweep: Sweep, against: str) -> str:
    """Return the method to compare with, by any case."""
    known = [*sweep.plan.methods, "zero-shot"]
    wished = against or sweep.plan.against or sweep.plan.methods[0]
    by_fold = {name.casefold(): name for name in reversed(known)}
    if wished.casefold() not in by_fold:
        near = difflib.get_close_matches(wished.casefold(), by_fold, 1)
        hint = f' Did you mean "{by_fold[near[0]]}"?' if near else ""
        raise ConfigError(f'--against "{clean(wished, 60)}": this sweep has {", ".join(known)}.{hint}')
    return by_fold[wished.casefold()]


def sweep_notes(sweep: Sweep) -> list[str]:
    """Tell of places without any completed run, and of what the sweep left out."""
    empty = [place for place in sweep.places if not place.all_trials()]
    notes = [f"No table yet, {place.heading}: {_first_reason(place)}" for place in empty]
    left: dict[tuple[str, str], list[str]] = {}
    for one in sweep.plan.left_out:
        at = {key: one.at[key] for key in sweep.plan.axes}
        left.setdefault((one.method, one.why), []).append(place_in_words(at))
    return notes + [
        f"Left out, {clean(why)}: {clean(method, 60)} ({'; '.join(at)})" for (method, why), at in left.items()
    ]


def _first_reason(place: Place) -> str:
    whys: dict[str, int] = {}
    for one in place.missing:
        whys[one.why] = whys.get(one.why, 0) + 1
    return "; ".join(f"{count} runs {why}" for why, count in whys.items())


def _write(stem: Path, sweep: Sweep, boards: Sequence[Board], foot: Sequence[str]) -> list[Path]:
    sections = [section(sweep, board) for board in boards]
    texts: Mapping[str, str] = {
        ".md": markdown(clean(sweep.plan.title), sections, foot),
        ".csv": csv_of(boards),
        "-seeds.csv": csv_of_seeds(boards),
        ".tex": latex(sections, foot),
    }
    try:
        for ending, text in texts.items():
            write_atomically(Path(f"{stem}{ending}"), text.encode())
        drawn = draw(boards, stem)
    except OSError as error:
        raise StateError(f"{stem}.* cannot be written ({error.strerror}): choose another --out.") from error
    return [*(Path(f"{stem}{ending}") for ending in texts), *drawn]


def section(sweep: Sweep, board: Board) -> Section:
    """Return one table of scores, and one of differences for each model."""
    grids = [scores_grid(board, board.columns)]
    if len(board.rows) > 1 and any(row.comparisons for row in board.rows):
        for model in dict.fromkeys(model for model, _ in board.columns):
            grids.append(differences_grid(board, [column for column in board.columns if column[0] == model]))
    return Section(board.place.heading, tuple(grids), (*board_notes(board), *chosen(sweep.plan, board.place)))
