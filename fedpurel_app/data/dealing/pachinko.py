"""Deal a data set out by a taste for superclasses: Pachinko allocation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.dealing.partition import Ints, Partition

_FINE_CONCENTRATION = 10.0  # Dirichlet parameter over the classes within a superclass, as the reference code


def pachinko(
    train: tuple[Ints, Ints],
    test: tuple[Ints, Ints],
    sites: int,
    alpha: float,
    superclass: Sequence[int],
    rng: np.random.Generator,
) -> Partition:
    """Draw each site's taste for superclasses and classes, then let the sites draw images from one urn.

    Parameters
    ----------
    train, test, sites, rng
        As in :func:`~fedpurel_app.data.dealing.partition.dirichlet`.
    alpha : float
        Concentration of each site's Dir(alpha) over superclasses; within a superclass it is Dir(10).
    superclass : sequence of int, length C
        Superclass of each class.

    Returns
    -------
    Partition
        Every site draws equally many images (up to one) without replacement from the union of training and test rows,
        classes by its taste among those that are left. An image keeps its split.

    Raises
    ------
    DataError
        When a site ends up without a training or a test image.

    References
    ----------
    Li and McCallum, "Pachinko allocation", ICML 2006; used on CIFAR-100 by Reddi et al., ICLR 2021, and in FedPuReL's
    reference code.
    """
    coarse = np.asarray(superclass)
    classes = len(coarse)
    urn = _urn(train, test, classes, rng)
    left = np.array([len(items) for items in urn])
    quota = np.diff(np.linspace(0, left.sum(), sites + 1).astype(int))
    parts: tuple[list[Ints], list[Ints]] = ([], [])
    for site in range(sites):
        taste = rng.dirichlet(np.full(coarse.max() + 1, alpha))[coarse]
        for group in range(coarse.max() + 1):
            members = np.flatnonzero(coarse == group)
            taste[members] *= rng.dirichlet(np.full(len(members), _FINE_CONCENTRATION))
        drawn: list[tuple[int, int]] = []
        for _ in range(quota[site]):
            # The floor keeps a site drawing when the classes it likes have run out.
            weight = np.where(left > 0, taste + 1e-12, 0.0)
            label = rng.choice(classes, p=weight / weight.sum())
            left[label] -= 1
            drawn.append(urn[label][left[label]])
        for split, part in enumerate(parts):
            part.append(np.sort(np.array([row for kind, row in drawn if kind == split], np.int64)))
    empty = [site for site in range(sites) if not (len(parts[0][site]) and len(parts[1][site]))]
    if empty:
        raise DataError(
            f"Pachinko allocation left sites {empty} without a training or a test image: lower num-sites, or use "
            'partition = "dirichlet".'
        )
    return Partition(tuple(parts[0]), tuple(parts[1]))


def _urn(
    train: tuple[Ints, Ints], test: tuple[Ints, Ints], classes: int, rng: np.random.Generator
) -> list[list[tuple[int, int]]]:
    """Mix training rows (0, row) and test rows (1, row) of every class."""
    urn = []
    for label in range(classes):
        items = [(kind, int(row)) for kind, (rows, labels) in enumerate((train, test)) for row in rows[labels == label]]
        urn.append([items[i] for i in rng.permutation(len(items))])
    return urn
