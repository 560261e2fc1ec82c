"""Deal a data set out to sites: each site gets training rows and a test part drawn the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import listed

Ints = npt.NDArray[np.int64]
SplitName = Literal["train", "test"]  # of a data set,
PartName = Literal["train", "validation", "test"]  # and of a site's images
_DRAWS = 200  # attempts to give every site a training and a test image
# Sites that a draw is expected to leave without an image: that it leaves none has a chance of about exp(-40).
_HOPELESS = 40.0
_SAMPLES = 20_000  # of a site's share, to estimate that number
_FEWEST_CUT = 5  # images of a class at a site, below which none is kept for validation


@dataclass(frozen=True)
class Partition:
    """Rows of every site.

    Attributes
    ----------
    train, test : tuple of ndarray of int64
        Row numbers of the training and of the test split, one array for each site; no row is given twice.
    validation : tuple of ndarray of int64
        Rows of the training split that sites do not train on, in the same form; empty where there is no such part.
    """

    train: tuple[Ints, ...]
    test: tuple[Ints, ...]
    validation: tuple[Ints, ...] = ()

    @property
    def sha256(self) -> str:
        """Fingerprint of all index lists."""
        digest = hashlib.sha256()
        for part in (self.train, self.test, self.validation):
            for rows in part:
                digest.update(np.int64(len(rows)).tobytes() + np.asarray(rows, np.int64).tobytes())
        return digest.hexdigest()


def validation_images(count: int, share: float) -> int:
    """Return how many images of a class are kept for validation, of those that a site has.

    Parameters
    ----------
    count : int
    share : float
        In [0, 0.5].

    Returns
    -------
    int
        The share rounded down, but at least one; of fewer than five images, none.

    Examples
    --------
    >>> [validation_images(count, 0.1) for count in (1, 4, 5, 19, 20, 70)]
    [0, 0, 1, 1, 2, 7]
    """
    return 0 if count < _FEWEST_CUT else max(1, int(share * count + 1e-9))  # 0.29 of 100 are 29


def dirichlet(
    train: tuple[Ints, Ints],
    test: tuple[Ints, Ints],
    sites: int,
    alpha: float,
    rng: np.random.Generator,
    uniform_test: bool = False,
) -> Partition:
    """Draw for each class how its images spread over the sites, once for training and test parts alike.

    Parameters
    ----------
    train, test : (ndarray of int, ndarray of int), each of shape (N,)
        Row numbers and their labels.
    sites : int
    alpha : float
        Concentration of Dir(alpha) over the sites; small = each class lives at few sites.
    rng : numpy.random.Generator
    uniform_test : bool
        Give every site an equal share of every class's test images instead of the matched one.

    Returns
    -------
    Partition
        Drawn anew until every site has a training and a test image.

    Raises
    ------
    DataError
        When no draw could be expected to give every site an image, or 200 did not.
    """
    classes = int(max(train[1].max(), test[1].max())) + 1
    advice = 'Use fewer sites (num-sites), a larger alpha, more data (max-per-class), or partition = "iid".'
    for what, (_, labels) in (("training", train), ("test", test)):
        even = uniform_test and what == "test"
        empty = expected_empty(np.bincount(labels, minlength=classes), sites, alpha, even)
        if empty > _HOPELESS:
            raise DataError(
                f"a Dirichlet draw with alpha = {alpha:g} would leave about {empty:,.0f} of {sites:,} sites without a "
                f"{what} image: there are {len(labels):,}, {len(labels) / sites:.1f} for each site. {advice}"
            )
    train_rows, test_rows = (_by_class(*split, classes, rng) for split in (train, test))
    for _ in range(_DRAWS):
        shares = rng.dirichlet(np.full(sites, alpha), classes)
        local = np.full_like(shares, 1 / sites) if uniform_test else shares
        train_parts, test_parts = _deal(train_rows, shares, rng), _deal(test_rows, local, rng)
        if all(len(rows) for part in (train_parts, test_parts) for rows in part):
            return Partition(train_parts, test_parts)
    raise DataError(
        f"{_DRAWS} Dirichlet draws with alpha = {alpha:g} left some of the {sites} sites without a training or a test "
        f"image ({len(train[0])} training, {len(test[0])} test images). {advice}"
    )


def expected_empty(counts: Ints, sites: int, alpha: float, even: bool = False) -> float:
    """Estimate how many sites a Dirichlet draw leaves without any image.

    Parameters
    ----------
    counts : ndarray of int, shape (C,)
        Images of each class.
    sites : int
    alpha : float
    even : bool
        Every site has an equal share of each class.

    Returns
    -------
    float
        A site has none of a class of n images with probability max(0, 1 - n s), s its share, which is distributed as
        Beta(alpha, alpha (sites - 1)), and classes are drawn independently.
    """
    share = np.full(1, 1 / sites)
    if not even and sites > 1:
        share = np.random.default_rng(0).beta(alpha, alpha * (sites - 1), _SAMPLES)
    sizes, times = np.unique(counts, return_counts=True)
    without = [float(np.maximum(0.0, 1.0 - size * share).mean()) for size in sizes]
    return float(sites * np.prod(np.power(without, times)))


def iid(train: tuple[Ints, Ints], test: tuple[Ints, Ints], sites: int, rng: np.random.Generator) -> Partition:
    """Shuffle, then deal out equal parts.

    Parameters
    ----------
    train, test, sites, rng
        As in :func:`dirichlet`.

    Returns
    -------
    Partition

    Raises
    ------
    DataError
        When there are fewer images than sites.
    """
    parts = []
    for rows, _ in (train, test):
        if len(rows) < sites:
            raise DataError(f"{len(rows)} images cannot be dealt out to {sites} sites: lower num-sites.")
        parts.append(tuple(np.sort(part) for part in np.array_split(rng.permutation(rows), sites)))
    return Partition(parts[0], parts[1])


def natural(train: Ints, test: Ints, names: Sequence[str], sites: int) -> Partition:
    """Give every site the images that are its own.

    Parameters
    ----------
    train, test : ndarray of int64, shape (N,)
        For each row of a split the place of its site among the names.
    names : sequence of str
    sites : int

    Returns
    -------
    Partition

    Raises
    ------
    DataError
        When there is another number of sites than the data are from.
    """
    if sites != len(names):
        raise DataError(
            f"the data are from {len(names)} sites ({listed(names, 6)}), and are asked for at {sites}: a natural "
            "partition has the sites of the data, no more and no fewer."
        )
    parts = (tuple(np.flatnonzero(split == site) for site in range(sites)) for split in (train, test))
    return Partition(*parts)


def _by_class(rows: Ints, labels: Ints, classes: int, rng: np.random.Generator) -> list[Ints]:
    return [rng.permutation(rows[labels == label]) for label in range(classes)]


def _deal(rows_by_class: Sequence[Ints], shares: npt.NDArray[np.float64], rng: np.random.Generator) -> tuple[Ints, ...]:
    """Deal every class's rows out by shares, shape (C, sites); every row is given to one site.

    Systematic sampling with a random start: a site gets its share of n rows rounded down or up, and n times its share
    in expectation. Cutting at the rounded-down cumulated shares instead would give the last row of every class, and so
    every class of one image, to the last site.
    """
    sites = shares.shape[1]
    owners = []
    for rows, share in zip(rows_by_class, shares, strict=True):
        position = (np.arange(len(rows)) + rng.random()) / max(1, len(rows))
        owners.append(np.minimum(np.searchsorted(np.cumsum(share), position, side="right"), sites - 1))
    owner, dealt = np.concatenate(owners), np.concatenate(rows_by_class)
    order = np.lexsort((dealt, owner))  # one sort for all sites: a search through all rows for each would be quadratic
    ends = np.cumsum(np.bincount(owner, minlength=sites))[:-1]
    return tuple(np.split(dealt[order].astype(np.int64), ends))
