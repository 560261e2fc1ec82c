"""What a codec is, and how updates become one vector and arrays again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]
Named = dict[str, npt.NDArray[np.float32]]
Vector = npt.NDArray[np.float64]


class Codec(ABC):
    """Shortens an update, the difference between what a site trained and what it was sent.

    Parameters
    ----------
    ratio : int
        How many times shorter it becomes, at least 2.

    Attributes
    ----------
    remembers : bool
        Whether a site keeps what it has not sent yet, as private state.

    Raises
    ------
    ValueError
        When the ratio is no whole number of at least 2.
    """

    remembers: ClassVar[bool] = False

    def __init__(self, ratio: int = 8) -> None:
        if not isinstance(ratio, int) or ratio < 2:
            raise ValueError(f"ratio = {ratio!r}: must be a whole number of at least 2.")
        self.ratio = ratio

    @abstractmethod
    def form(self, sent: Arrays) -> Arrays:
        """Return arrays with the names, shapes and types that a reply to what was sent must have."""

    @abstractmethod
    def encode(self, update: Vector, number: int) -> Named:
        """Return what is sent in the place of an update, shape (N,), in round ``number``."""

    @abstractmethod
    def expand(self, coded: Arrays, size: int, number: int) -> Vector:
        """Return the update, shape (N,), that something coded stands for; raises ValueError where it is none."""

    def shorten(self, trained: Arrays, sent: Arrays, number: int, unsent: Arrays) -> tuple[Named, Named]:
        """Do a site's part.

        Parameters
        ----------
        trained, sent : mapping of str to ndarray
            The shared parameters after and before the visit.
        number : int
            Of the round.
        unsent : mapping of str to ndarray
            What was left over at the last visit; empty before the first one.

        Returns
        -------
        coded : dict of str to ndarray
        unsent : dict of str to ndarray
            What is left over now; empty where this codec remembers nothing.
        """
        update = flat(trained) - flat(sent)
        if not self.remembers:
            return self.encode(update, number), {}
        update += flat(unsent) if unsent else 0
        coded = self.encode(update, number)
        left = update - self.expand(coded, update.size, number)
        return coded, _arrays(left, {name: np.zeros(value.shape, np.float32) for name, value in sent.items()})

    def restore(self, coded: Arrays, sent: Arrays, number: int) -> Named:
        """Do the server's part: return the parameters that a site's reply stands for.

        Raises
        ------
        ValueError
            When it stands for none, or for numbers that are not finite.
        """
        before = flat(sent)
        with np.errstate(over="ignore"):
            found = _arrays(before + self.expand(coded, before.size, number), sent)
        if not all(np.isfinite(value).all() for value in found.values()):
            raise ValueError("it expands to numbers that are not finite")
        return found


def flat(arrays: Arrays) -> Vector:
    """Return all values as one vector, shape (N,), by the arrays' names.

    Raises
    ------
    ValueError
        When an array does not hold floating-point numbers: a mean of shortened counters would be none.
    """
    if odd := sorted(name for name, value in arrays.items() if value.dtype.kind != "f"):
        raise ValueError(f"{odd[0]} holds {arrays[odd[0]].dtype}: only floating-point parameters can be compressed.")
    return np.concatenate([arrays[name].ravel().astype(np.float64) for name in sorted(arrays)])


def _arrays(vector: Vector, like: Arrays) -> Named:
    """Cut a vector into arrays of the names, shapes and types of others: the inverse of :func:`flat`."""
    names = sorted(like)
    ends = np.cumsum([like[name].size for name in names])[:-1]
    return {
        name: piece.reshape(like[name].shape).astype(like[name].dtype)
        for name, piece in zip(names, np.split(vector, ends), strict=True)
    }
