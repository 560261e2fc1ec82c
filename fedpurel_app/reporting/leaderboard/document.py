"""A board as text: grids of cells with their notes, the same for every form in which they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedpurel_app.core.names import clean, listed
from fedpurel_app.reporting.columns import digits_of, number, title_of
from fedpurel_app.reporting.leaderboard.board import LOWER_IS_BETTER, Board, Column, Entry, Row
from fedpurel_app.reporting.leaderboard.paired import LEVEL, RESAMPLES, Comparison
from fedpurel_app.reporting.leaderboard.published import Published
from fedpurel_app.reporting.leaderboard.sweep import MODELS

SIGNIFICANT = 0.05
SHARED = "†"
_MANY = 20  # pairs of seeds, of whose mean a bootstrap interval holds nearly what it says
_COVERAGE = "of normal differences 72 % (3 seeds), 83 % (5), 89 % (10), 92 % (20)"  # of 1,500 draws each
DASH = number(None)


@dataclass(frozen=True)
class Cell:
    """A text, which stands out or does not; what is ``below`` follows where there are no lines within a cell."""

    text: str
    bold: bool = False
    below: str = ""

    @property
    def in_one_line(self) -> str:
        """Both texts."""
        return f"{self.text}, {self.below}" if self.below else self.text


@dataclass(frozen=True)
class Grid:
    """A table of texts; the first column is left-aligned, the others are not."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def column_title(column: Column) -> str:
    """Return what to call a column.

    >>> column_title(("global", "few")), column_title(("personalized", "ece"))
    ('GM Few', 'PM ECE')
    """
    return f"{MODELS[column[0]]} {score_title(column[1])}"


def score_title(score: str) -> str:
    """Return what to call a score."""
    title = "Balancedness" if score == "balancedness" else title_of(score)
    return f"{title[0].upper()}{title[1:]}"


def scores_grid(board: Board, columns: Sequence[Column], with_costs: bool = True) -> Grid:
    """Return means and deviations over seeds, the best mean of each column bold, and below a method what was published.

    Parameters
    ----------
    board : Board
    columns : sequence of (str, str)
        Some of the board's.
    with_costs : bool
        Append time and traffic.
    """
    rows = []
    for row in board.rows:
        cells = [Cell(score_text(row.entries[one], one), board.is_best(row, one)) for one in columns]
        costs = [Cell(number(row.seconds, 0)), Cell(number(row.megabytes, 2))] if with_costs else []
        rows.append((Cell(clean(row.name, 60)), Cell(str(len(row.seeds))), *cells, *costs))
        if row.published:
            told = [row.published.scores.get(model, {}).get(score) for model, score in columns]
            texts = [DASH if value is None else number(value, 2) for value in told]
            rows.append((Cell(f"published: {row.published.name}"), *map(Cell, ("", *texts, *("" for _ in costs)))))
    header = ("method", "n", *map(column_title, columns), *(("s", "MB") if with_costs else ()))
    return Grid("mean ± sd over n seeds", header, tuple(rows))


def score_text(entry: Entry, column: Column) -> str:
    """Write a mean with its deviation, and a sign where the global model stands for personalized ones."""
    if not entry.by_seed:
        return DASH
    (mean, sd), digits = entry.mean_sd, digits_of(column[1])
    spread = "" if sd is None else f" ± {number(sd, digits)}"
    return f"{number(mean, digits)}{spread}{SHARED if entry.is_shared else ''}"


def differences_grid(board: Board, columns: Sequence[Column], brief: bool = False) -> Grid:
    """Return the paired differences from the board's reference, bold where the corrected p is below 0.05.

    Parameters
    ----------
    board : Board
    columns : sequence of (str, str)
        Some of the board's.
    brief : bool
        Leave out intervals and who was better how often.
    """
    rows = tuple(
        (
            Cell(clean(row.name, 60)),
            Cell(str(max(row.comparisons[column].pairs for column in columns))),
            *(_difference(row.comparisons[column], brief, digits_of(column[1])) for column in columns),
        )
        for row in board.rows
        if row.comparisons
    )
    return Grid(
        f"paired differences from {clean(board.against, 60)}", ("method", "n", *map(column_title, columns)), rows
    )


def p_text(p: float) -> str:
    """Write a probability.

    >>> p_text(0.03125), p_text(0.00001)
    ('0.031', '<0.001')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _difference(one: Comparison, brief: bool, digits: int) -> Cell:
    if one.why:
        return Cell(DASH)
    sure = one.p_holm < SIGNIFICANT
    if brief:
        return Cell(f"{_signed(one.difference, digits)} {p_text(one.p_holm)}", sure)
    return Cell(difference_text(one, digits + 1), sure, f"p {p_text(one.p_holm)}, {one.wins}:{one.losses}")


def difference_text(one: Comparison, digits: int) -> str:
    """Write a mean difference with its interval.

    >>> difference_text(Comparison(10, difference=1.0, low=-0.25, high=2.0), 2)
    '+1.00 [−0.25, +2.00]'
    """
    mean, low, high = (_signed(value, digits) for value in (one.difference, one.low, one.high))
    return f"{mean} [{low}, {high}]"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")  # a minus as wide as a plus


def board_notes(board: Board) -> list[str]:
    """Tell what is missing, and why."""
    notes: dict[str, list[str]] = {}
    for row in board.rows:
        for column in board.columns:
            _note(notes, row, column)
    missing: dict[str, dict[str, list[str]]] = {}
    for one in board.place.missing:
        missing.setdefault(one.why, {}).setdefault(one.method, []).append(str(one.seed))
    return [
        f"Setting: {board.place.setting}.",
        *(f"{text}: {', '.join(dict.fromkeys(names))}." for text, names in notes.items()),
        *(
            f"Missing, {why}: {'; '.join(f'{clean(name, 60)}, seed {listed(seeds, 30)}' for name, seeds in by.items())}"
            for why, by in missing.items()
        ),
        *(_source(row.published) for row in board.rows if row.published),
        *board.notes,
        *_cautions(board),
    ]


def _source(published: Published) -> str:
    other = f", with {published.unlike}" if published.unlike else ""
    return f"Published, {published.name}: {published.source}{other}."


def _note(notes: dict[str, list[str]], row: Row, column: Column) -> None:
    """Note why a cell is empty, or of fewer seeds than its row."""
    entry, title = row.entries[column], column_title(column)
    if len(entry.by_seed) < len(row.seeds):
        had = DASH if not entry.by_seed else f"Of {len(entry.by_seed)} seeds alone"
        notes.setdefault(f"{had}, {entry.why}", []).append(f"{clean(row.name, 60)} {title}")
    elif row.comparisons and (why := row.comparisons[column].why):
        notes.setdefault(f"Not compared, {why}", []).append(clean(row.name, 60))


def legend(boards: Sequence[Board], mark: str = "bold") -> list[str]:
    """Say what the tables' numbers are; boards have one reference and the same columns.

    Parameters
    ----------
    boards : sequence of Board
    mark : str
        What stands out: "bold", or a sign.
    """
    used = [score for _, score in boards[0].columns]
    lower = ", ".join(title_of(one) for one in dict.fromkeys(used) if one in LOWER_IS_BETTER)
    data = " or ".join(sorted({trial.evaluated_on for board in boards for trial in board.place.all_trials().values()}))
    shared = any(entry.is_shared for board in boards for row in board.rows for entry in row.entries.values())
    return [
        f"In %{' (NLL: nats)' if 'nll' in used else ''}, after the last round. GM: the global model on the server's "
        f"balanced {data} set; PM: personalized models on the sites' own test parts.",
        f"Means ± one standard deviation over n seeds; {mark}: the best mean of a column, zero-shot's included"
        f"{f' (lowest: {lower})' if lower else ''}. s: wall time of a run; MB: what all sites sent in it.",
        *([f"{SHARED} no site trained a private part: the global model on the sites' test parts."] if shared else []),
        f"Paired differences: this method minus {clean(boards[0].against, 60)}, mean over the seeds that both have; "
        f"its {100 * LEVEL:.0f} % bootstrap interval (BCa, {RESAMPLES:,} resamples); p of the two-sided Wilcoxon "
        "signed-rank test, corrected by Holm for all comparisons of its column; on how many seeds it is "
        "better : worse. "
        f"{mark[0].upper()}{mark[1:]}: p below {SIGNIFICANT:g}.",
    ]


def _cautions(board: Board) -> list[str]:
    """Say so where seeds are too few for their intervals, or for so many comparisons that no corrected p can be low."""
    tested = {
        (one.pairs, sum(not row.comparisons[column].why for row in board.rows if row.comparisons))
        for column in board.columns
        for row in board.rows
        if row.comparisons
        for one in (row.comparisons[column],)
        if not one.why
    }
    if not tested:
        return []
    few = min(pairs for pairs, _ in tested)
    few_pairs = (
        [f"Bootstrap intervals of {few} seeds are too narrow: {_COVERAGE} hold the mean."] if few < _MANY else []
    )
    least, pairs, count = min((min(1.0, count * 2.0 ** (1 - pairs)), pairs, count) for pairs, count in tested)
    if least < SIGNIFICANT:
        return few_pairs
    return [
        *few_pairs,
        f"With {pairs} pairs of seeds and {count} comparisons no corrected p is below {p_text(least)}: read the "
        "intervals, or run more seeds.",
    ]
