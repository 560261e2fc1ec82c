"""Embeddings of sites' tasks as server and sites exchange them: (K, 32) float32, the receiving site's own first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

TASKS, EMBEDDING = "tasks", "h.embedding"  # names on the wire: of all rows in a brief, of a site's own in its reply
WIDTH = 32
MOST = 10_000  # rows that a site takes
LARGEST = 1e3  # absolute value of a number in them: where they are compared, their size is divided out


def unfit(rows: npt.NDArray[Any]) -> str:
    """Tell why an array is no embeddings, in one line; "" where it is.

    Examples
    --------
    >>> unfit(np.zeros((1, 32), np.float32))
    ''
    >>> unfit(np.zeros((1, 31), np.float32))
    'embeddings are float32(1, 31): expected 1 to 10000 rows of 32 finite float32 numbers of at most 1000'
    """
    fits = rows.dtype == np.float32 and rows.ndim == 2 and rows.shape[1] == WIDTH and 1 <= len(rows) <= MOST
    if fits and np.abs(rows).max() <= LARGEST:  # not of NaN
        return ""
    what = f"{rows.dtype}{rows.shape}" if not fits else f"of size {np.abs(rows).max():.3g}"
    return f"embeddings are {what}: expected 1 to {MOST} rows of {WIDTH} finite float32 numbers of at most {LARGEST:g}"
