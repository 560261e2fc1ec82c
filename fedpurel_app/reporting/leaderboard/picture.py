"""The picture of a sweep: paired differences in all and in few-shot classes, method by method, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedpurel_app.core.names import clean
from fedpurel_app.reporting.leaderboard.board import LOWER_IS_BETTER, Board, Column, Row
from fedpurel_app.reporting.leaderboard.document import SIGNIFICANT, column_title
from fedpurel_app.reporting.leaderboard.sweep import cut
from fedpurel_app.reporting.plots import pyplot, save

_SHOWN = ("all", "few")
_BETTER, _WORSE, _OPEN = "#0072B2", "#D55E00", "#666666"  # of Okabe and Ito's palette
_ROW, _HEAD, _TALLEST = 0.27, 1.5, 200.0  # inches: a method, a panel's head and axis, the whole picture


def draw(boards: Sequence[Board], stem: Path) -> list[Path]:
    """Draw ``<stem>.png`` and ``<stem>.svg``.

    Parameters
    ----------
    boards : sequence of Board
        A row of panels each. Those without a comparison are left out, and those that one picture does not hold.
    stem : Path

    Returns
    -------
    list of Path
        The files; empty where nothing is compared.

    Raises
    ------
    OSError
        When the disk refuses.
    """
    figure = painted(boards)
    if figure is None:
        return []
    try:
        return save(figure, stem)
    finally:
        pyplot().close(figure)


def painted(boards: Sequence[Board]) -> Any:
    """Return the figure that :func:`draw` writes; None where nothing is compared."""
    shown = [(board, panels) for board in boards if (panels := _panels(board))]
    heights = [_HEAD + _ROW * len(_compared(board, panels)) for board, panels in shown]
    while sum(heights) > _TALLEST:
        heights.pop()
        shown.pop()
    if not shown:
        return None
    wide = max(len(panels) for _, panels in shown)
    figure = pyplot().figure(figsize=(2.2 + 2.9 * wide, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (board, panels) in zip(parts, shown, strict=True):
        _forest(part, board, panels)
    return figure


def _panels(board: Board) -> list[Column]:
    """Return the columns to draw: all and few-shot classes, else the first ones that compare anything."""
    known = [
        column
        for column in board.columns
        if any(column in row.comparisons and not row.comparisons[column].why for row in board.rows)
    ]
    return [column for column in known if column[1] in _SHOWN] or known[:2]


def _compared(board: Board, panels: Sequence[Column]) -> list[Row]:
    return [row for row in board.rows if any(not row.comparisons[one].why for one in panels if one in row.comparisons)]


def _forest(figure: Any, board: Board, panels: Sequence[Column]) -> None:
    """Draw a panel for each column: a dot and an interval for each method, the number beside it."""
    rows = _compared(board, panels)
    figure.suptitle(clean(board.place.heading, 100), fontsize=10, fontweight="bold")
    for index, (axes, column) in enumerate(zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)):
        for place, row in enumerate(rows):
            _interval(axes, place, row, column)
        axes.axvline(0, color="black", linewidth=0.8, zorder=0)
        names = [cut(clean(row.name, 60), 28) for row in rows]
        axes.set_yticks(range(len(rows)), names if index == 0 else [""] * len(rows), fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6, zorder=0)
        axes.set_axisbelow(True)
        axes.set_title(column_title(column), fontsize=9)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    figure.supxlabel(
        f"points minus {clean(board.against, 60)}, mean of paired seeds and 95 % interval; "
        f"filled: p < {SIGNIFICANT:g} after Holm; blue better, orange worse",
        fontsize=7,
        color=_OPEN,
    )


def _interval(axes: Any, place: int, row: Row, column: Column) -> None:
    """Draw one method's difference, and write it in a column of its own at the right."""
    one = row.comparisons[column]
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "ha": "left", "fontsize": 7, "clip_on": False}
    if one.why:
        axes.text(1.01, place, "–", color=_OPEN, **beside)
        return
    better = (one.difference > 0) != (column[1] in LOWER_IS_BETTER)
    sure = one.p_holm < SIGNIFICANT
    colour = (_BETTER if better else _WORSE) if sure else _OPEN
    axes.plot([one.low, one.high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([one.difference], [place], "o", color=colour, markerfacecolor=colour if sure else "white", markersize=5)
    axes.text(1.01, place, f"{one.difference:+.1f}", color=colour, **beside)
