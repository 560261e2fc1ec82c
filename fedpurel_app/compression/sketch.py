"""A count sketch of an update, with hashes that are drawn anew every round."""

from __future__ import annotations

import numpy as np

from fedpurel_app.compression.base import Arrays, Codec, Named, Vector
from fedpurel_app.core.seeding import derive_seed

_NAME = "sketch"


class Sketch(Codec):
    r"""Send one row of sums instead of the values.

    Coordinate j of the update goes with a random sign s_j into a random cell h_j of w = ceil(N / ratio); both are drawn
    from the seed and the round, the same at all sites:

    S_c = sum over j with h_j = c of s_j Delta_j,    Delta^_j = s_j S_{h_j}

    The estimate is unbiased: what shares a cell has random signs. It is linear: the mean of sketches is the sketch of
    the mean. Nothing is remembered.

    Parameters
    ----------
    ratio : int
    seed : int

    References
    ----------
    Charikar, Chen and Farach-Colton, ICALP 2002 (count sketch); Rothchild et al., FetchSGD, ICML 2020 (in federations).
    ELSA (arXiv 2601.13824) sketches its messages, too. Its formulas were not to be had: one row, fresh hashes and no
    error feedback are our reading.
    """

    def __init__(self, ratio: int = 8, seed: int = 0) -> None:
        super().__init__(ratio)
        self.seed = seed

    def form(self, sent: Arrays) -> Arrays:
        """Return one row of w cells."""
        return {_NAME: np.zeros((1, self._width(sum(value.size for value in sent.values()))), np.float32)}

    def encode(self, update: Vector, number: int) -> Named:
        """Return the row, float32, shape (1, w)."""
        cells, signs = self._hashes(update.size, number)
        row = np.bincount(cells, signs * update, self._width(update.size))
        with np.errstate(over="ignore"):
            return {_NAME: row.astype(np.float32)[None]}

    def expand(self, coded: Arrays, size: int, number: int) -> Vector:
        """Return the estimate of every value."""
        cells, signs = self._hashes(size, number)
        return signs * coded[_NAME][0].astype(np.float64)[cells]

    def _width(self, size: int) -> int:
        return -(-size // self.ratio)

    def _hashes(self, size: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw a round's cells, shape (N,), and signs, shape (N,)."""
        rng = np.random.default_rng(derive_seed(self.seed, "sketch", number))
        return rng.integers(0, self._width(size), size), rng.choice(np.array([-1.0, 1.0]), size)
