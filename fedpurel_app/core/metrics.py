"""Honest per-class metrics: counts that add up, groups of classes by training size, Balancedness. numpy alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

GROUPS = ("many", "medium", "few")


@dataclass(frozen=True)
class ClassCounts:
    """Correct and total predictions for each class. They add up exactly, so nothing is averaged twice.

    Attributes
    ----------
    correct, total : ndarray of int64, shape (C,)

    Examples
    --------
    >>> one = ClassCounts.of(np.array([True, False]), np.array([0, 1]), 2)
    >>> (one + one).accuracy
    0.5
    """

    correct: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        correct, total = np.asarray(self.correct), np.asarray(self.total)
        if correct.ndim != 1 or correct.shape != total.shape:
            raise ValueError(f"correct {correct.shape} and total {total.shape} must both have shape (C,)")
        if not all(np.issubdtype(counts.dtype, np.integer) for counts in (correct, total)):
            raise ValueError("counts must be whole numbers")
        if (correct < 0).any() or (correct > total).any():
            raise ValueError("every class needs 0 <= correct <= total")
        object.__setattr__(self, "correct", correct.astype(np.int64))
        object.__setattr__(self, "total", total.astype(np.int64))

    @classmethod
    def zeros(cls, classes: int) -> ClassCounts:
        """Make the neutral element of addition."""
        return cls(np.zeros(classes, np.int64), np.zeros(classes, np.int64))

    @classmethod
    def of(cls, hits: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64], classes: int) -> ClassCounts:
        """Count hits, shape (N,), by label, shape (N,)."""
        total = np.bincount(labels, minlength=classes)
        return cls(np.bincount(labels[hits], minlength=classes), total)

    def __add__(self, other: ClassCounts) -> ClassCounts:
        return ClassCounts(self.correct + other.correct, self.total + other.total)

    @property
    def accuracy(self) -> float | None:
        """Micro accuracy in [0, 1]; None without examples."""
        total = int(self.total.sum())
        return int(self.correct.sum()) / total if total else None

    def over_classes(self) -> ClassCounts:
        """Add the classes up: counts of one class that stands for all."""
        return ClassCounts(self.correct.sum(keepdims=True), self.total.sum(keepdims=True))

    @property
    def per_class(self) -> npt.NDArray[np.float64]:
        """Accuracy of each class in [0, 1], shape (C,); NaN for a class without examples."""
        return np.divide(self.correct, self.total, out=np.full(len(self.total), np.nan), where=self.total > 0)


def pool(counts: Iterable[ClassCounts]) -> ClassCounts | None:
    """Add counts up; None when there are none."""
    total: ClassCounts | None = None
    for one in counts:
        total = one if total is None else total + one
    return total


def balancedness(per_class_accuracy: npt.ArrayLike, power: float, sigma: float) -> float:
    """Compute how alike the accuracies of all classes are.

    Parameters
    ----------
    per_class_accuracy : array_like, shape (C,)
        Accuracies in [0, 1]; classes with NaN (no test example) are left out.
    power : float
        p > 0.
    sigma : float
        sigma > 0.

    Returns
    -------
    float
        In (0, 1]; 1 when all are equal. NaN without any class.

    Raises
    ------
    ValueError
        When power or sigma is not positive.

    Notes
    -----
    C^-2 sum_ij exp(-|a_i - a_j|^p / sigma). FedPuReL does not state its p and sigma: values are comparable only where
    both are equal.

    References
    ----------
    Kang et al., "Exploring balanced feature spaces for representation learning", ICLR 2021.

    Examples
    --------
    >>> balancedness([0.5, 0.5], power=1, sigma=0.1)
    1.0
    """
    if power <= 0 or sigma <= 0:
        raise ValueError(f"power = {power} and sigma = {sigma} must be positive")
    accuracy = np.asarray(per_class_accuracy, float)
    accuracy = accuracy[~np.isnan(accuracy)]
    if not len(accuracy):
        return float("nan")
    distance = np.abs(accuracy[:, None] - accuracy[None, :])
    return float(np.exp(-(distance**power) / sigma).mean())


def group_by_counts(train_counts: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """Group classes by their global number of training images: Many > 100 >= Medium > 20 >= Few.

    Parameters
    ----------
    train_counts : ndarray of int, shape (C,)

    Returns
    -------
    dict of str to ndarray of int64
        Class indices of "many", "medium" and "few"; a group may be empty.
    """
    counts = np.asarray(train_counts)
    return {
        "many": np.flatnonzero(counts > 100),
        "medium": np.flatnonzero((counts > 20) & (counts <= 100)),
        "few": np.flatnonzero(counts <= 20),
    }


def group_by_terciles(train_counts: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """Group classes into three parts of (nearly) equal size, by falling number of training images.

    Parameters and returns as :func:`group_by_counts`; ties keep the order of the classes.
    """
    order = np.argsort(-np.asarray(train_counts), kind="stable")
    return {name: np.sort(part) for name, part in zip(GROUPS, np.array_split(order, 3), strict=True)}


def summarize(
    counts: ClassCounts, groups: Mapping[str, npt.NDArray[np.int64]] | None, power: float, sigma: float
) -> dict[str, float | None]:
    """Turn counts into the numbers that are reported.

    Parameters
    ----------
    counts : ClassCounts
    groups : mapping of str to ndarray of int64, or None
        Class indices of "many", "medium", "few"; None where they are not known.
    power, sigma : float
        Of :func:`balancedness`.

    Returns
    -------
    dict
        ``all`` (micro accuracy), ``many``, ``medium``, ``few`` (mean over the classes of the group that have test
        examples, classes without a hit included), ``balancedness`` and ``worst_class`` (lowest accuracy of a class that
        has test examples), all in percent; None for what does not exist.
    """
    per_class = counts.per_class
    scored = per_class[~np.isnan(per_class)]
    result: dict[str, float | None] = {"all": None if counts.accuracy is None else 100 * counts.accuracy}
    for name in GROUPS:
        members = np.array([]) if groups is None else per_class[groups[name]]
        members = members[~np.isnan(members)]
        result[name] = float(100 * members.mean()) if len(members) else None
    result["balancedness"] = 100 * balancedness(per_class, power, sigma) if len(scored) else None
    result["worst_class"] = float(100 * scored.min()) if len(scored) else None
    return result
