"""Some rows of a split as a split, and how rows are held out of one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedpurel_app.core.seeding import derive_seed
from fedpurel_app.data.sources.folders import FileSplit
from fedpurel_app.data.sources.inspection import Lookable
from fedpurel_app.data.sources.source import FeatureSplit, Ints, Source, Split

if TYPE_CHECKING:
    from PIL.Image import Image

TEST_SHARE = 0.2  # of every class, where data come without a test part
_VALIDATION_SHARE = 0.25  # of every class, where settings are chosen and there is no validation split


@dataclass(frozen=True)
class Rows:
    """Some rows of a split, with labels of their own.

    Attributes
    ----------
    whole : Split
    rows : ndarray of int64, shape (N,)
    labels : ndarray of int64, shape (N,)
    """

    whole: Split
    rows: Ints
    labels: Ints

    @cached_property
    def fingerprint(self) -> str:
        """Name of the content."""
        return content_of(self.whole, self.rows, self.labels)

    @property
    def state(self) -> str:
        """What changes when an image of the whole split does."""
        return self.whole.state if isinstance(self.whole, Lookable) else ""

    def faults(self) -> Iterator[str]:
        """Yield, for every image of the whole split, what is wrong with it by its header."""
        return self.whole.faults() if isinstance(self.whole, Lookable) else iter(())

    def encoded(self, rows: Ints) -> list[Path | bytes]:
        """Return the files, or their bytes, of some rows; none where there are no images."""
        return self.whole.encoded(self.rows[rows]) if isinstance(self.whole, Lookable) else []

    def images(self, rows: Ints) -> list[Image]:
        """Load images by row number, as RGB."""
        return self.whole.images(self.rows[rows])


def tested(count: int) -> int:
    """Return how many images of a class are tested on: a fifth, but one as soon as there are two."""
    return max(int(TEST_SHARE * count), int(count > 1))


def hold_out(labels: Ints, names: Sequence[str], seed: int, held: Callable[[int], int] = tested) -> tuple[Ints, Ints]:
    """Deal rows out to two parts, class by class.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    names : sequence of str, length N
        What is dealt out by: as few rows as possible change sides when others come or go.
    seed : int
    held : callable
        From the number of rows of a class to how many of them the second part gets; by default those to test on.

    Returns
    -------
    (ndarray, ndarray) of int64
        Ascending row numbers: what is kept, and what is held out.
    """
    lots = np.array([derive_seed(seed, name) for name in names], np.int64)
    out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        out[rows[np.argsort(lots[rows], kind="stable")[: held(len(rows))]]] = True
    return np.flatnonzero(~out), np.flatnonzero(out)


def identities(split: Split) -> Sequence[str]:
    """Return a name for each row that stays its own when others come or go: its file, else its number."""
    if isinstance(split, Rows):
        whole = identities(split.whole)
        return [whole[row] for row in split.rows]
    return split.files if isinstance(split, FileSplit) else [str(row) for row in range(len(split.labels))]


def some_rows(split: Split, rows: Ints) -> Split:
    """Return some rows of a split, in their order, as a split."""
    if isinstance(split, FeatureSplit):
        return FeatureSplit(split.features[rows], split.labels[rows], content_of(split, rows))
    return Rows(split, rows, split.labels[rows])


def content_of(split: Split, *arrays: Ints) -> str:
    """Name the content that rows or labels make of a split's."""
    return hashlib.sha256(split.fingerprint.encode() + b"".join(array.tobytes() for array in arrays)).hexdigest()


def on_validation(source: Source) -> Source:
    """Put validation data in the place of the test data, which are then not looked at.

    Parameters
    ----------
    source : Source

    Returns
    -------
    Source
        With its own validation split, where it has one; else with a quarter of the training images of every class, the
        same whatever the seed of a run, which are then not trained on.
    """
    centres = source.centres
    if source.validation is not None:
        moved = centres and replace(centres, test=centres.validation)
        return replace(source, test=source.validation, centres=moved)
    kept, held = hold_out(
        source.train.labels, identities(source.train), 0, lambda count: int(_VALIDATION_SHARE * count)
    )
    parted = centres and replace(centres, train=centres.train[kept], test=centres.train[held])
    return replace(source, train=some_rows(source.train, kept), test=some_rows(source.train, held), centres=parted)
