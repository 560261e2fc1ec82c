"""A site's front: what is counted at every point of three curves, two of which cost no training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
PARETO, ADJUSTED, DIAL = "pareto", "logit-adjustment", "dial"
CURVES = (PARETO, ADJUSTED, DIAL)
MOST_POINTS = 256  # of a front that a site may send
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
        if not 1 <= len(self.correct) <= MOST_POINTS or self.correct.shape != (len(self.correct), len(total)):
            raise ValueError(f"a front of shape {self.correct.shape} for {len(total)} counts of images")
        if (self.correct < 0).any() or (self.correct > total).any():
            raise ValueError("a front has more right answers than images")
        if self.agree.shape != self.correct.shape[:1] or (self.agree < 0).any() or (self.agree > total.sum()).any():
            raise ValueError("a front agrees with the global model on more images than there are")
        if self.everywhere is not None and (
            self.everywhere.shape[:1] != self.agree.shape or (self.everywhere < 0).any()
        ):
            raise ValueError(f"a front of shape {self.everywhere.shape} on the balanced test set")


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
