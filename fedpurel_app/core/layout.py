"""How shared parameters are laid out in the model: whole numbers that nobody trains, in messages and in files.

They are no part of the arrays that sites send: noise would be added to them, and a median taken of them. They go down
in a record of their own, and lie in a checkpoint's file beside the parameters that they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

METHOD = "method"  # a message's ConfigRecord that says how the shared parameters are laid out
HOME = "home"  # by learned token, the block of the tower that it enters before
IDLENESS = "idleness"  # by learned token, in a reply: how fast the loss would fall if it faded
MOST = 1_000_000  # numbers of a layout
Layout = Mapping[str, npt.NDArray[np.int64]]
_NAMES = (HOME,)
_STORED = "layout/"  # before the names among what a part at the server keeps


def as_lists(layout: Layout) -> dict[str, list[int]]:
    """Return a layout as a message has it."""
    return {name: value.tolist() for name, value in layout.items()}


def of_lists(record: Mapping[str, Any]) -> Layout:
    """Read the names that are known; raise ValueError for what is no list of whole numbers of at least 0."""
    return {name: _numbers(name, record[name]) for name in _NAMES if name in record}


def stored(layout: Layout) -> dict[str, npt.NDArray[np.int64]]:
    """Return a layout by its names in a checkpoint's file."""
    return {_STORED + name: value for name, value in layout.items()}


def among(arrays: Mapping[str, npt.NDArray[Any]]) -> Layout:
    """Return the layout that lies among the arrays of a checkpoint's file."""
    return {name.removeprefix(_STORED): value for name, value in arrays.items() if name.startswith(_STORED)}


def _numbers(name: str, values: Any) -> npt.NDArray[np.int64]:
    fine = isinstance(values, Sequence) and not isinstance(values, str | bytes) and len(values) <= MOST
    if not fine or not all(type(value) is int and 0 <= value < MOST for value in values):
        raise ValueError(f"the server's {name} is no list of at most {MOST} whole numbers from 0 on")
    return np.array(values, np.int64)
