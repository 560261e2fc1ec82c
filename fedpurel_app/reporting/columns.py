"""The columns that tables of scores have, and how their numbers are printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ACCURACIES = ("all", "many", "medium", "few", "balancedness")
DETAILS = ("macro_f1", "worst_class", "worst_site", "tail_as_head", "ece", "ece_many", "ece_few", "nll")
COLUMNS = (*ACCURACIES, *DETAILS)
MODELS = {
    "zero_shot": "zero-shot",
    "global": "global model",
    "global_at_sites": "global, at sites",
    "personalized": "personalized, at sites",
}
_TITLES = {"balancedness": "balanced", "macro_f1": "macro-F1", "tail_as_head": "few > many", "nll": "NLL"}
_SUMMARY = {  # what the table at the end of a run has of DETAILS: its titles, and how wide they stand
    "macro_f1": ("F1", 7),
    "ece": ("ECE", 7),
    "ece_few": ("ECE few", 9),
    "nll": ("NLL", 7),
    "worst_class": ("worst class", 12),
    "worst_site": ("site", 6),
    "tail_as_head": ("few > many", 12),
}
LEGEND = "F1: macro-F1; ECE: calibration error, 15 bins; few > many: few-shot images taken for many-shot classes"


def number(value: float | None, digits: int = 1) -> str:
    """Print a number, or a dash for one that does not exist."""
    return "–" if value is None else f"{value:.{digits}f}"


def digits_of(column: str) -> int:
    """Return how many digits a column has after the point."""
    return 3 if column == "nll" else 1


def title_of(column: str) -> str:
    """Return what to call a column.

    >>> title_of("worst_class"), title_of("ece_few")
    ('worst class', 'ECE few')
    """
    return _TITLES.get(column) or column.replace("ece", "ECE").replace("_", " ")


def detail_lines(summary: Mapping[str, Any]) -> list[str]:
    """Print what ``summary.json`` has beside accuracies; nothing where it has none of it."""
    known = {
        key: scores
        for key in MODELS
        if (scores := summary.get(key)) and any(scores.get(column) is not None for column in _SUMMARY)
    }
    if not known:
        return []
    lines = [f"{'':<22}" + "".join(f"{title:>{width}}" for title, width in _SUMMARY.values())]
    for key, scores in known.items():
        cells = (f"{number(scores.get(one), digits_of(one)):>{width}}" for one, (_, width) in _SUMMARY.items())
        lines.append(f"{MODELS[key]:<22}" + "".join(cells))
    return [*lines, LEGEND]
