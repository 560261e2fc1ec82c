"""The forms in which tables are written: Markdown, LaTeX, and CSV with a line for each number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedpurel_app.core.files import csv_text
from fedpurel_app.reporting.leaderboard.board import Board, Row
from fedpurel_app.reporting.leaderboard.document import Cell, Grid
from fedpurel_app.reporting.leaderboard.sweep import MODELS

_CSV = (
    *("method", "model", "score", "scored", "n", "seeds", "mean", "sd", "published"),
    *("against", "pairs", "difference", "low", "high", "p", "p_holm", "wins", "losses", "seconds", "mb_up", "note"),
)
_MODELS = [f"{title} " for title in MODELS.values()]
_ESCAPED = {
    **{one: f"\\{one}" for one in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "†": r"$^\dagger$", "–": "--", "−": "$-$", "<": "$<$", ">": "$>$", "|": r"$|$", '"': "''"},
    **{"λ": r"$\lambda$", "α": r"$\alpha$", "σ": r"$\sigma$", "…": r"\dots{}"},
}
_HEAD = r"""\documentclass[a4paper,landscape]{article}
% It needs no package; copy what stands between \begin{table} and \end{table}.
\ifdefined\pdfpagewidth\pdfpagewidth=\paperwidth\pdfpageheight=\paperheight\fi
\setlength{\textwidth}{27cm}\setlength{\oddsidemargin}{-1.5cm}
\setlength{\topmargin}{-2cm}\setlength{\textheight}{17.5cm}
\begin{document}
"""


@dataclass(frozen=True)
class Section:
    """A heading, the grids beneath it and what is to be said of them."""

    heading: str
    grids: tuple[Grid, ...]
    notes: tuple[str, ...]


def markdown(title: str, sections: Sequence[Section], foot: Sequence[str]) -> str:
    """Write tables for a page."""
    lines = [f"# {_escaped_markdown(title)}", ""] if title else []
    for section in sections:
        lines += [f"## {_escaped_markdown(section.heading)}", ""]
        for grid in section.grids:
            lines += [f"{_escaped_markdown(grid.caption)}:", "", *_markdown_grid(grid), ""]
        lines += [*(f"- {_escaped_markdown(note)}" for note in section.notes), ""] if section.notes else []
    return "\n".join([*lines, *(f"- {_escaped_markdown(line)}" for line in foot)]) + "\n"


def _markdown_grid(grid: Grid) -> list[str]:
    marks = ["---", *("---:" for _ in grid.header[1:])]
    rows = [[f"**{text}**" if cell.bold else text for cell in row for text in (_escaped_markdown(cell.in_one_line),)]
            for row in grid.rows]  # fmt: skip
    return [f"| {' | '.join(cells)} |" for cells in ([_escaped_markdown(one) for one in grid.header], marks, *rows)]


def _escaped_markdown(text: str) -> str:
    return "".join(f"\\{one}" if one in "|*_`<\\" else one for one in text)


def latex(sections: Sequence[Section], foot: Sequence[str]) -> str:
    """Write a document that compiles as it stands, each table a float of its own."""
    parts = [_HEAD]
    for section in sections:
        for grid in section.grids:
            parts.append(_latex_grid(grid, section.heading))
        parts += [f"{{\\footnotesize {escaped(note)}\\par}}\n" for note in section.notes]
        parts.append("\\clearpage\n")
    parts += [f"{{\\footnotesize {escaped(line)}\\par}}\n" for line in foot]
    return "".join([*parts, "\\end{document}\n"])


def _latex_grid(grid: Grid, heading: str) -> str:
    lines = [line for row in grid.rows for line in _latex_lines(row)]
    return (
        "\\begin{table}[htbp]\\centering\\scriptsize\\setlength{\\tabcolsep}{2.5pt}"
        "\\renewcommand{\\arraystretch}{1.2}\n"
        f"\\caption{{{escaped(f'{heading}: {grid.caption}')}}}\n"
        f"\\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}\n\\hline\n"
        f"{_latex_head(grid.header)}\\hline\n{''.join(lines)}\\hline\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _latex_lines(row: Sequence[Cell]) -> list[str]:
    """Return the lines of a row: a second one where cells have something below."""
    lines = [[_latex_cell(cell.text, cell.bold) for cell in row]]
    if any(cell.below for cell in row):
        lines.append([_latex_cell(cell.below, cell.bold) for cell in row])
    return [f"{' & '.join(cells)} \\\\\n" for cells in lines]


def _latex_head(titles: Sequence[str]) -> str:
    """Return a line with each model over its columns, and one with the scores: columns are as wide as their numbers."""
    pairs = [title.split(" ", 1) if title.startswith(tuple(_MODELS)) else ["", title] for title in titles]
    groups = [(model, len(list(members))) for model, members in itertools.groupby(model for model, _ in pairs)]
    upper = [f"\\multicolumn{{{size}}}{{c}}{{{escaped(model)}}}" for model, size in groups]
    return f"{' & '.join(upper)} \\\\\n{' & '.join(escaped(score) for _, score in pairs)} \\\\\n"


def _latex_cell(text: str, bold: bool) -> str:
    shown = f"\\textbf{{{escaped(text)}}}" if bold and text else escaped(text)
    return f"{{}}{shown}" if shown.startswith(("[", "*")) else shown  # which have a meaning at the end of a line


def escaped(text: str) -> str:
    r"""Return a text as LaTeX prints it; letters that its usual fonts lack become "?".

    >>> print(escaped("a_b & 5 % ± 1"))
    a\_b \& 5 \% $\pm$ 1
    """
    return "".join(_ESCAPED.get(one, one if ord(one) < 0x180 else "?") for one in text)


def csv_of(boards: Sequence[Board]) -> str:
    """Write a line for each method, model and score of each board: the axes, then ``method`` and the rest.

    ``mean``, ``sd``, ``difference``, ``low`` and ``high`` are in percent (``nll``: nats), ``seconds`` and ``mb_up``
    means over the runs; what does not exist is empty, and ``note`` says why.
    """
    axes = list(boards[0].place.at)
    lines = [[*board.place.at.values(), *line] for board in boards for row in board.rows for line in _lines(board, row)]
    return csv_text([*axes, *_CSV], lines)


def csv_of_seeds(boards: Sequence[Board]) -> str:
    """Write a line for each method, model and seed of each board, with its scores as columns: what statistics need.

    Scores are in percent (``nll``: nats) and empty where there is none; ``scored`` is "global_at_sites" where the
    global model stands for personalized ones.
    """
    axes = list(boards[0].place.at)
    scores = list(dict.fromkeys(score for _, score in boards[0].columns))
    lines = [
        [*board.place.at.values(), row.name, model, row.entries[model, scores[0]].scored, seed]
        + [_plain(row.entries[model, score].by_seed.get(seed)) for score in scores]
        for board in boards
        for row in board.rows
        for model in dict.fromkeys(model for model, _ in board.columns)
        for seed in row.seeds
    ]
    return csv_text([*axes, "method", "model", "scored", "seed", *scores], lines)


def _lines(board: Board, row: Row) -> list[list[Any]]:
    lines = []
    for model, score in board.columns:
        entry, one = row.entries[model, score], row.comparisons.get((model, score))
        mean, sd = entry.mean_sd
        told = row.published.scores.get(model, {}).get(score) if row.published else None
        tested = one is not None and not one.why
        numbers = [one.difference, one.low, one.high, one.p, one.p_holm] if one and tested else [math.nan] * 5
        wins = [one.wins, one.losses] if one and tested else ["", ""]
        lines.append([
            row.name, model, score, entry.scored, len(entry.by_seed), " ".join(map(str, entry.by_seed)),
            _plain(mean), _plain(sd), "" if told is None else f"{told:.2f}",
            board.against if one else "", one.pairs if one else "", *map(_plain, numbers), *wins,
            _plain(row.seconds), _plain(row.megabytes), entry.why or (one.why if one else ""),
        ])  # fmt: skip
    return lines


def _plain(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"
