"""How well a model knows what it knows: bins of its confidence as integers that pool exactly. numpy alone."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

BINS = 15  # of equal width, (b / 15, (b + 1) / 15]
UNIT = 2**16  # parts of one that confidences and nats are counted in
MOST_NATS = 1000.0  # what an image adds to the NLL at most, so that sums stay within 64 bits

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Bins:
    """Images by the top probability that a model gave, in groups of classes.

    Attributes
    ----------
    total, correct : ndarray of int64, shape (G, 15)
        Images, and those of them that the model got right. G is 1, or 3 where the groups of :data:`GROUPS` are known.
    confidence : ndarray of int64, shape (G, 15)
        Sum of their top probabilities, in units of 2^-16.

    Raises
    ------
    ValueError
        When the numbers cannot belong to each other.
    """

    total: Ints
    correct: Ints
    confidence: Ints

    def __post_init__(self) -> None:
        total, correct, confidence = self.total, self.correct, self.confidence
        if total.ndim != 2 or total.shape[1] != BINS or not total.shape == correct.shape == confidence.shape:
            raise ValueError(f"bins must have shape (G, {BINS}): {total.shape}, {correct.shape}, {confidence.shape}")
        if (correct < 0).any() or (correct > total).any():
            raise ValueError("every bin needs 0 <= correct <= total")
        least, most = self._reach()
        room = total  # a unit for each image: others may round otherwise
        if (confidence < least - room).any() or (confidence > most + room).any():
            raise ValueError("a bin's sum of confidence lies outside of what its images can have")

    @classmethod
    def of(cls, confidence: Floats, hits: npt.NDArray[np.bool_], group: Ints | None = None, groups: int = 1) -> Bins:
        """Put images into bins.

        Parameters
        ----------
        confidence : ndarray of float, shape (N,)
            Top probability of each image; what is not finite counts as 0.
        hits : ndarray of bool, shape (N,)
        group : ndarray of int64, shape (N,), optional
            Group of each image's class, from 0; all are in one where it is absent.
        groups : int
            G.
        """
        fixed = fixed_point(confidence, worst=0.0)
        column = np.clip(np.ceil(fixed * (BINS / UNIT)).astype(np.int64) - 1, 0, BINS - 1)
        place = column if group is None else group * BINS + column
        parts = (np.bincount(place[chosen], minlength=groups * BINS) for chosen in (slice(None), hits))
        total, correct = (part.astype(np.int64).reshape(groups, BINS) for part in parts)
        sums = np.bincount(place, fixed, groups * BINS)  # exact: whole numbers below 2^53
        return cls(total, correct, sums.astype(np.int64).reshape(groups, BINS))

    def __add__(self, other: Bins) -> Bins:
        return Bins(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def over_groups(self) -> Bins:
        """Add the groups up: G = 1."""
        return Bins(*(getattr(self, one.name).sum(0, keepdims=True) for one in fields(self)))

    def rows(self, group: int) -> Bins:
        """Return the bins of one group."""
        return Bins(*(getattr(self, one.name)[group : group + 1] for one in fields(self)))

    def coarse(self, step: int) -> Bins:
        """Round the sums of confidence to multiples of some units, or to what the images can have."""
        rounded = step * ((self.confidence + step // 2) // step)
        return Bins(self.total, self.correct, np.clip(rounded, *self._reach()))

    def _reach(self) -> tuple[Ints, Ints]:
        """Return the least and the largest sum of confidence that the images of each bin can have."""
        edges = np.arange(BINS + 1) * UNIT
        return -(-(self.total * edges[:-1]) // BINS), self.total * edges[1:] // BINS

    @property
    def ece(self) -> float | None:
        """Expected calibration error over all groups, in [0, 1]; None without images.

        Notes
        -----
        sum_b n_b / N · |hits_b / n_b − confidence_b / n_b|.

        References
        ----------
        Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015;
        Guo et al., "On calibration of modern neural networks", ICML 2017.
        """
        number = int(self.total.sum())
        gaps = np.abs(self.correct.sum(0) - self.confidence.sum(0) / UNIT)
        return float(gaps.sum()) / number if number else None


def fixed_point(values: Floats, worst: float, most: float = 1.0) -> Ints:
    """Return numbers in units of 2^-16, cut to [0, most]; each is rounded by itself, so that sums pool exactly.

    Parameters
    ----------
    values : ndarray of float, shape (N,)
    worst : float
        Stands for what is not finite.
    most : float

    Examples
    --------
    >>> fixed_point(np.array([0.5, 2.0]), 1.0).tolist()
    [32768, 65536]
    """
    finite = np.where(np.isfinite(values), values, worst)
    return np.rint(np.clip(finite, 0.0, most).astype(np.float64) * UNIT).astype(np.int64)
