"""The check of labels that every data set passes, wherever its labels come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def label_problem(part: str, labels: Sequence[int | None] | npt.NDArray[np.integer[Any]], classes: int) -> str:
    """Say how many labels of a part stand for no class; empty when all do.

    Parameters
    ----------
    part : str
        "train" or "test"; empty where it is one of several files.
    labels : sequence of int or None
        None, or NaN, where there is none.
    classes : int

    Examples
    --------
    >>> label_problem("test", [0, 1, -1, 2, -1, None], 2)
    '3 of 6 rows of the test part have a label outside 0 to 1 (-1, 2), and 1 have no label'
    >>> label_problem("test", [0, 1], 2)
    ''
    """
    values = np.array([np.nan if label is None else label for label in labels], np.float64)
    absent = np.isnan(values)
    outside = ~absent & ((values < 0) | (values >= classes))
    rows = f"{len(values):,} rows" + (f" of the {part} part" if part else "")
    if outside.any():
        odd = ", ".join(f"{value:g}" for value in np.unique(values[outside])[:5])
        said = f"{int(outside.sum()):,} of {rows} have a label outside 0 to {classes - 1} ({odd})"
        return said + (f", and {int(absent.sum()):,} have no label" if absent.any() else "")
    return f"{int(absent.sum()):,} of {rows} have no label" if absent.any() else ""
