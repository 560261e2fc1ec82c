"""The wire format of what an evaluation tells beside counts of right answers. Every part of it is optional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.calibration import BINS, Bins
from fedpurel_app.core.details import Details
from fedpurel_app.core.metrics import GROUPS

_BINS = ("bin-total", "bin-correct", "bin-confidence")
_LISTS = (*_BINS, "predicted", "group-confusion")
BOTH_RIGHT = {"global": "right-with-zero-shot", "personalized": "right-with-global"}
_MOST = 2**53  # of any number: sums of confidence and of losses are the largest


def details_to_metrics(model: str, details: Details, both_right: int | None = None) -> dict[str, int | list[int]]:
    """Pack what is known of a model, and how many images it and the one before it both got right.

    Returns
    -------
    dict
        ``MODEL/bin-total``, ``bin-correct`` and ``bin-confidence``: 15 numbers each, or 45, group by group;
        ``MODEL/nll``; ``MODEL/predicted``, C numbers; ``MODEL/group-confusion``, 9, row by row; and
        ``global/right-with-zero-shot`` or ``personalized/right-with-global``.
    """
    metrics: dict[str, int | list[int]] = {}
    if details.bins is not None:
        parts = (details.bins.total, details.bins.correct, details.bins.confidence)
        metrics |= {f"{model}/{name}": part.ravel().tolist() for name, part in zip(_BINS, parts, strict=True)}
    if details.nll is not None:
        metrics[f"{model}/nll"] = details.nll
    if details.predicted is not None:
        metrics[f"{model}/predicted"] = details.predicted.tolist()
    if details.confusion is not None:
        metrics[f"{model}/group-confusion"] = details.confusion.ravel().tolist()
    if both_right is not None and model in BOTH_RIGHT:
        metrics[f"{model}/{BOTH_RIGHT[model]}"] = both_right
    return metrics


def details_from_metrics(model: str, metrics: Mapping[str, Any]) -> Details:
    """Unpack what a site told of a model beside counts.

    Raises
    ------
    ValueError
        When something is no whole number, of the wrong length, or cannot be.
    """
    found = {name: _list(f"{model}/{name}", metrics) for name in _LISTS}
    lists = [part for name in _BINS if (part := found[name]) is not None]
    if lists and len(lists) < len(_BINS):
        raise ValueError(f"{model} has some of {', '.join(_BINS)}, not all")
    bins = None
    if lists:
        if {len(part) for part in lists} not in ({BINS}, {BINS * len(GROUPS)}):
            raise ValueError(f"bins of {model} need {BINS} numbers, or {BINS * len(GROUPS)}")
        bins = Bins(*(part.reshape(-1, BINS) for part in lists))
    confusion = found["group-confusion"]
    if confusion is not None:
        if len(confusion) != len(GROUPS) ** 2:
            raise ValueError(f"{model}/group-confusion needs {len(GROUPS) ** 2} numbers")
        confusion = confusion.reshape(len(GROUPS), len(GROUPS))
    return Details(bins, _number(f"{model}/nll", metrics), found["predicted"], confusion)


def both_right_from_metrics(model: str, metrics: Mapping[str, Any]) -> int | None:
    """Unpack how many images a model and the one before it both got right; raises ValueError for what is no number."""
    return _number(f"{model}/{BOTH_RIGHT[model]}", metrics) if model in BOTH_RIGHT else None


def _number(name: str, metrics: Mapping[str, Any]) -> int | None:
    value = metrics.get(name)
    if value is not None and not _is_whole(value):
        raise ValueError(f"{name} is no whole number from 0 to {_MOST}")
    return value


def _list(name: str, metrics: Mapping[str, Any]) -> npt.NDArray[np.int64] | None:
    value = metrics.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(map(_is_whole, value)):
        raise ValueError(f"{name} is no list of whole numbers from 0 to {_MOST}")
    return np.array(value, np.int64)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST
