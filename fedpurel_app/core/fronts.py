"""A site's front: what is counted at every point of three curves, two of which cost no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.errors import ConfigError

Ints = npt.NDArray[np.int64]
PARETO, ADJUSTED, DIAL = "pareto", "logit-adjustment", "dial"
CURVES = (PARETO, ADJUSTED, DIAL)
_MOST_POINTS = 256  # of a front that a site may send
_MOST_IMAGES = 100_000_000
_CORRECT, _AGREE, _EVERYWHERE = "pareto/correct", "pareto/agree", "pareto/everywhere"  # on the wire
_STEPS = 10  # of a curve from 0 to 1
_PARTS = 4  # of the simplex of three objectives


class Point(NamedTuple):
    """One model of a front.

    Attributes
    ----------
    curve : {"pareto", "logit-adjustment", "dial"}
    at : tuple of float
        The preference; or tau of l_G + l_P - tau log pi; or a of l_G + a l_P.
    """

    curve: str
    at: tuple[float, ...]


def simplex(objectives: int) -> list[tuple[float, ...]]:
    """List preferences that are spread evenly: 11 among two objectives, 15 among three (Das and Dennis, 4 parts).

    Examples
    --------
    >>> simplex(2)[:2], len(simplex(3))
    ([(0.0, 1.0), (0.1, 0.9)], 15)
    """
    if objectives == 2:
        return [(step / _STEPS, 1 - step / _STEPS) for step in range(_STEPS + 1)]
    return [
        (first / _PARTS, second / _PARTS, (_PARTS - first - second) / _PARTS)
        for first in range(_PARTS + 1)
        for second in range(_PARTS + 1 - first)
    ]


def preference_of(asked: Sequence[float], objectives: int) -> tuple[float, ...]:
    """Return a preference as a user asked for it: of two objectives the weight of the first may do.

    Raises
    ------
    ConfigError
        When there are more or fewer weights, one is negative, or they do not add up to 1.

    Examples
    --------
    >>> preference_of([0.75], 2)
    (0.75, 0.25)
    """
    found = (*asked, 1 - asked[0]) if objectives == 2 and len(asked) == 1 else tuple(asked)
    if len(found) == objectives and all(0 <= one <= 1 for one in found) and abs(sum(found) - 1) <= 1e-6:
        return found
    form = "a number from 0 to 1" if objectives == 2 else f"{objectives} numbers of at least 0 that add up to 1"
    raise ConfigError(
        f"--preference {','.join(f'{one:g}' for one in asked)}: the run weighs {objectives} losses. Give {form}, as "
        f"--preference {'0.7' if objectives == 2 else '0.5,0.3,0.2'}."
    )


@cache
def points_of(objectives: int) -> tuple[Point, ...]:
    """Return the points of all curves, in the order in which they are counted."""
    line = [(step / _STEPS,) for step in range(_STEPS + 1)]
    return (
        *(Point(PARETO, preference) for preference in simplex(objectives)),
        *(Point(ADJUSTED, at) for at in line),
        *(Point(DIAL, at) for at in line),
    )


@dataclass(frozen=True, eq=False)
class Front:
    """What a site counted on its own test part, and in a simulation on the server's balanced test set.

    Attributes
    ----------
    correct : ndarray of int64, shape (P, C), or (P, 1)
        Right predictions on its own test part at every point, by class or in all.
    agree : ndarray of int64, shape (P,)
        On how many images of it the prediction is that of the global model.
    everywhere : ndarray of int64, shape (P, C), or None
        Right predictions on the balanced test set.
    """

    correct: Ints
    agree: Ints
    everywhere: Ints | None = None

    def totals(self) -> Front:
        """Return what tells nothing of single classes."""
        return Front(self.correct.sum(1, keepdims=True), self.agree)

    def require(self, total: Ints) -> None:
        """Raise ValueError unless the counts can be of so many images, shape (C,) or (1,)."""
        if not 1 <= len(self.correct) <= _MOST_POINTS or self.correct.shape != (len(self.correct), len(total)):
            raise ValueError(f"a front of shape {self.correct.shape} for {len(total)} counts of images")
        if (self.correct < 0).any() or (self.correct > total).any():
            raise ValueError("a front has more right answers than images")
        if self.agree.shape != self.correct.shape[:1] or (self.agree < 0).any() or (self.agree > total.sum()).any():
            raise ValueError("a front agrees with the global model on more images than there are")
        if self.everywhere is not None and (
            self.everywhere.shape[:1] != self.agree.shape or (self.everywhere < 0).any()
        ):
            raise ValueError(f"a front of shape {self.everywhere.shape} on the balanced test set")


def front_to_metrics(front: Front) -> dict[str, list[int]]:
    """Pack a front: ``pareto/correct``, the counts of its points one after the other, and the other two likewise."""
    metrics = {_CORRECT: front.correct.ravel().tolist(), _AGREE: front.agree.tolist()}
    return metrics if front.everywhere is None else metrics | {_EVERYWHERE: front.everywhere.ravel().tolist()}


def front_from_metrics(metrics: Mapping[str, Any], total: Ints) -> Front | None:
    """Unpack a front, whatever a site sent; None where it sent none.

    Parameters
    ----------
    metrics : mapping
    total : ndarray of int64, shape (C,), or (1,)
        Images by class, or in all, as the site's other counts have them.

    Raises
    ------
    ValueError
        When something is no whole number, is missing, or cannot belong to so many images.
    """
    found = {name: metrics[name] for name in (_CORRECT, _AGREE, _EVERYWHERE) if name in metrics}
    if not found:
        return None
    for name, value in found.items():
        if not isinstance(value, list) or not value or not all(map(_is_count, value)):
            raise ValueError(f"{name} is no list of whole numbers from 0 to {_MOST_IMAGES}")
    if not {_CORRECT, _AGREE} <= set(found):
        raise ValueError(f"a front needs {_CORRECT} and {_AGREE}")
    points = len(found[_AGREE])
    if any(len(value) % points for value in found.values()):
        sizes = ", ".join(str(len(value)) for value in found.values())
        raise ValueError(f"a front of {points} points has {sizes} numbers")
    correct, everywhere = (
        np.array(found[name], np.int64).reshape(points, -1) if name in found else None
        for name in (_CORRECT, _EVERYWHERE)
    )
    front = Front(np.zeros((0, 0), np.int64) if correct is None else correct, np.array(found[_AGREE]), everywhere)
    front.require(total)
    return front


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_IMAGES


def mean_class_error(correct: Ints, total: Ints) -> npt.NDArray[np.float64]:
    """Return 1 - the mean over classes of their accuracy, by point; of classes that have images.

    Parameters
    ----------
    correct : ndarray of int64, shape (P, C)
    total : ndarray of int64, shape (C,)

    Returns
    -------
    ndarray, shape (P,)
    """
    seen = total > 0
    return 1 - (correct[:, seen] / total[seen]).mean(1)
