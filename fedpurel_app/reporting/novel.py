"""Accuracies on base and on novel classes, as terminals and tables of runs show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedpurel_app.reporting.columns import MODELS, number
from fedpurel_app.reporting.finished import mean_sd

_COLUMNS = {"all": "base", "novel": "novel", "harmonic": "H"}
LEGEND = "novel: classes that no site trained on, told apart among themselves; H: harmonic mean of base and novel, in %"


def novel_lines(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Print base, novel and their harmonic mean of zero-shot and of the global model, over one or more runs.

    Parameters
    ----------
    summaries : sequence of mapping
        Of runs of one setting.

    Returns
    -------
    list of str
        A line for each model; none where the runs name no novel classes.
    """
    lines = []
    for key in ("zero_shot", "global"):
        known = [one[key] for one in summaries if (one.get(key) or {}).get("novel") is not None]
        if known:
            cells = (f"{title} {_cell([one.get(column) for one in known])}" for column, title in _COLUMNS.items())
            lines.append(f"base to novel, {MODELS[key]}: {', '.join(cells)}")
    return lines


def _cell(values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return number(None)
    mean, sd = mean_sd(found)
    return number(mean) + ("" if sd is None else f" ± {number(sd)}")
