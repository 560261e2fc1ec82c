"""The largest values of an update; the rest waits at the site."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedpurel_app.compression.base import Arrays, Codec, Named, Vector

_PLACES, _VALUES = "indices", "values"


class TopK(Codec):
    """Send the k largest values of an update and of what is left over from the last ones, with their places.

    A value and its place take eight bytes, so k = ceil(N / (2 ratio)) of them take as many as N / ratio values. What is
    not sent is kept at the site and added to the next update (error feedback).

    Parameters
    ----------
    ratio : int

    References
    ----------
    Stich, Cordonnier and Jaggi, Sparsified SGD with Memory, NeurIPS 2018.
    """

    remembers: ClassVar[bool] = True

    def form(self, sent: Arrays) -> Arrays:
        """Return k places and k values."""
        count = self._count(sum(value.size for value in sent.values()))
        return {_PLACES: np.zeros(count, np.int32), _VALUES: np.zeros(count, np.float32)}

    def encode(self, update: Vector, number: int) -> Named:
        """Return places in rising order, int32, shape (k,), and values, float32, shape (k,)."""
        count, sizes = self._count(update.size), np.abs(update)
        least = np.partition(sizes, -count)[-count]  # of several such values, those whose places come first are taken
        above, equal = np.flatnonzero(sizes > least), np.flatnonzero(sizes == least)
        places = np.sort(np.concatenate([above, equal[: count - len(above)]]))
        with np.errstate(over="ignore"):
            return {_PLACES: places.astype(np.int32), _VALUES: update[places].astype(np.float32)}

    def expand(self, coded: Arrays, size: int, number: int) -> Vector:
        """Return the values at their places, and 0 elsewhere; raises ValueError for places that are none."""
        places = coded[_PLACES].astype(np.int64)  # differences of int32 may wrap around
        if not (np.diff(places) > 0).all() or places[0] < 0 or places[-1] >= size:
            raise ValueError(f"its places are not in rising order from 0 to {size - 1}")
        found = np.zeros(size)
        found[places] = coded[_VALUES]
        return found

    def _count(self, size: int) -> int:
        return -(-size // (2 * self.ratio))
