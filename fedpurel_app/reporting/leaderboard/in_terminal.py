"""Tables as wide as the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from rich.cells import cell_len, set_cell_size

from fedpurel_app.reporting.leaderboard.board import Board
from fedpurel_app.reporting.leaderboard.document import Cell, Grid, board_notes, differences_grid, scores_grid
from fedpurel_app.reporting.leaderboard.sweep import MODELS, cut

_NAME, _SHORTEST = 24, 14  # cells of a name, and to how many it is cut so that a line holds all columns
_LEAST = 60  # cells of a line
_GAP = " "
_SHORT = {"Balancedness": "Balanced"}


def width() -> int:
    """Return how many cells a line has."""
    return max(_LEAST, shutil.get_terminal_size((100, 24)).columns)


def board_lines(board: Board, room: int) -> list[str]:
    """Lay out a board: models apart, as many columns beside each other as fit, a star for what is bold elsewhere.

    Parameters
    ----------
    board : Board
    room : int
        Cells of a line.
    """
    heading = board.place.heading
    lines = [heading, "=" * min(room, cell_len(heading))]
    models = list(dict.fromkeys(model for model, _ in board.columns))
    for model in models:
        columns = [column for column in board.columns if column[0] == model]
        grids = [scores_grid(board, columns, with_costs=model == models[0])]
        if len(board.rows) > 1 and any(row.comparisons for row in board.rows):
            told = differences_grid(board, columns, brief=True)
            grids.append(replace(told, caption=f"{told.caption}, and corrected p"))
        for grid in grids:
            header = tuple(_short(title, model) for title in grid.header)
            lines += ["", f"{MODELS[model]}, {grid.caption}:", *grid_lines(replace(grid, header=header), room)]
    return [*lines, "", *wrapped(board_notes(board), room), ""]


def _short(title: str, model: str) -> str:
    plain = title.removeprefix(f"{MODELS[model]} ")
    return _SHORT.get(plain, plain)


def grid_lines(grid: Grid, room: int) -> list[str]:
    """Align a grid's columns; those that a line has no room for come below, names again before them."""
    rows = [tuple(map(Cell, grid.header)), *grid.rows]
    texts = [[f"{'*' if cell.bold else ''}{cell.text}" for cell in row] for row in rows]
    widths = [max(cell_len(row[index]) for row in texts) for index in range(len(grid.header))]
    others = sum(widths[1:]) + len(_GAP) * (len(widths) - 1)
    widths[0] = min(widths[0], room - others if room - others >= _SHORTEST else _NAME)
    parts: list[list[int]] = [[]]
    for index in range(1, len(widths)):
        if parts[-1] and widths[0] + sum(widths[one] + len(_GAP) for one in [*parts[-1], index]) > room:
            parts.append([])
        parts[-1].append(index)
    return [
        _GAP.join([_left(row[0], widths[0]), *(_right(row[one], widths[one]) for one in part)]).rstrip()
        for part in parts
        for row in texts
    ]


def _left(text: str, size: int) -> str:
    return set_cell_size(cut(text, size), size)


def _right(text: str, size: int) -> str:
    return " " * (size - cell_len(text)) + text


def wrapped(notes: Sequence[str], room: int) -> list[str]:
    """Wrap notes to the width of a line."""
    wrapper = textwrap.TextWrapper(room, subsequent_indent="  ", break_on_hyphens=False)
    return [line for note in notes for line in wrapper.wrap(note)]
