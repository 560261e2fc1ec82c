"""The exponential long-tail profile: how many training images of each class a federation has in all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def profile(
    available: Ints,
    imbalance_factor: float,
    max_per_class: int = 0,
    rank: Ints | None = None,
    keep_empty: bool = False,
    shots: int = 0,
) -> Ints:
    """Compute the number of images per class.

    Parameters
    ----------
    available : ndarray of int, shape (C,)
        N_c, images there are.
    imbalance_factor : float
        IF >= 1, largest over smallest class. 1 keeps the split as it is.
    max_per_class : int
        n_max, size of the largest class; 0 means the mean class size N / C.
    rank : ndarray of int, shape (C,), optional
        Rank of each class, 0 = head. The class index by default.
    keep_empty : bool
        Let tail classes drop to no image, as the reference code does.
    shots : int
        K images of each class, in the place of the profile; 0 = none of it.

    Returns
    -------
    ndarray of int64, shape (C,)
        n_c = min(N_c, max(1, int(n_max·IF^(-rank/(C-1))))), or min(N_c, K).

    Notes
    -----
    CIFAR-100 at IF 100: 500...5 per class, 10,847 images.

    Examples
    --------
    >>> profile(np.full(3, 100), imbalance_factor=100).tolist()
    [100, 10, 1]
    """
    available = np.asarray(available, np.int64)
    return np.minimum(available, quota(available, imbalance_factor, max_per_class, rank, keep_empty, shots))


def quota(
    available: Ints,
    imbalance_factor: float,
    max_per_class: int = 0,
    rank: Ints | None = None,
    keep_empty: bool = False,
    shots: int = 0,
) -> Ints:
    """Compute the number of images per class that the profile asks for, whether they are there or not.

    Parameters
    ----------
    available, imbalance_factor, max_per_class, rank, keep_empty, shots
        As for :func:`profile`.

    Returns
    -------
    ndarray of int64, shape (C,)

    Examples
    --------
    >>> quota(np.array([30, 2]), imbalance_factor=2, max_per_class=20).tolist()
    [20, 10]
    """
    if shots:
        return np.full(len(available), shots, np.int64)
    if imbalance_factor == 1:
        return np.array(available, np.int64)
    classes = len(available)
    ranks = np.arange(classes) if rank is None else np.asarray(rank)
    largest = max_per_class or int(np.sum(available)) / classes
    wanted = (largest * float(imbalance_factor) ** (-ranks / max(1, classes - 1))).astype(np.int64)
    return wanted if keep_empty else np.maximum(1, wanted)


def select(labels: Ints, counts: Ints, rng: np.random.Generator) -> Ints:
    """Draw the given number of rows of every class, without replacement.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    counts : ndarray of int, shape (C,)
        At most the number of rows of each class.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int64
        Row numbers, ascending.
    """
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in enumerate(np.asarray(counts))
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
