"""Data that a site brings of its own, under the class names of the federation.

A folder of images, a folder or file of parquet, or an ``.npz`` of image features; any subset of the classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedpurel_app.data.feature_file import read_features
from fedpurel_app.data.folders import labelled_files, subfolders
from fedpurel_app.data.hub import read_parquet
from fedpurel_app.data.source import PLAIN_TEMPLATE, FeatureSplit, Ints, Source, Split
from fedpurel_app.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

TEST_SHARE = 0.2  # of every class, where data come without a test part
_FORMS = (
    "a folder with one folder of images per class (or train/CLASS and test/CLASS), parquet files with a column of "
    "images and one of labels, or an .npz of features"
)


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
        return _fingerprint(self.whole, self.rows, self.labels)

    def images(self, rows: Ints) -> list[Image]:
        """Load images by row number, as RGB."""
        return self.whole.images(self.rows[rows])


NO_ROWS = FeatureSplit(np.zeros((0, 0), np.float32), np.zeros(0, np.int64), "none")


def load_own(path: str, class_names: Sequence[str], seed: int) -> Source:
    """Load a site's own data.

    Parameters
    ----------
    path : str
        A folder with ``CLASS/*.jpg``, or with ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg``; parquet (one file, or a
        folder of ``train*.parquet`` and ``test*.parquet``) with a column of images and a column of labels that have
        names; or an ``.npz`` as :func:`~fedpurel_app.data.feature_file.read_features` reads it. Empty: no data at all,
        as a server may have it.
    class_names : sequence of str
        Those of the federation, in its order. The data may have any of them, and no other; case, and underscores for
        spaces, do not matter.
    seed : int
        Deals every class out to training and test, four to one, where there is no test part.

    Returns
    -------
    Source

    Raises
    ------
    DataError
        When there is nothing of that form, or a class is unknown.
    """
    names = tuple(class_names)
    if not path:
        return Source("sites", names, PLAIN_TEMPLATE, NO_ROWS, NO_ROWS)
    parts, own_names = _read(Path(path))
    label_of = _labels_of(path, own_names, names)
    train = _renamed(parts["train"], label_of)
    test = _renamed(parts["test"], label_of) if "test" in parts else None
    if test is None:
        kept, held_out = hold_out(train.labels, np.random.default_rng(seed))
        train, test = _some(train, kept), _some(train, held_out)
    if not len(train.labels):
        raise DataError(f'data = "{path}" holds no training image.')
    if not len(test.labels):
        raise DataError(f'data = "{path}" holds no image to test on: add a test part, or a second image of a class.')
    return Source("sites", names, PLAIN_TEMPLATE, train, test)


def hold_out(labels: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Deal rows out to training and test, class by class.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    rng : numpy.random.Generator

    Returns
    -------
    (ndarray, ndarray) of int64
        Ascending row numbers. Of a class with n rows, ``n // 5`` are tested on; but one as soon as there are two.
    """
    held_out = [
        rng.permutation(rows)[: max(int(TEST_SHARE * len(rows)), int(len(rows) > 1))]
        for rows in (np.flatnonzero(labels == label) for label in np.unique(labels))
    ]
    test = np.sort(np.concatenate([np.zeros(0, np.int64), *held_out]))
    return np.setdiff1d(np.arange(len(labels)), test), test


def _read(path: Path) -> tuple[Mapping[str, Split], list[str]]:
    """Read parts "train" and, if there is one, "test", and the names that their labels stand for."""
    if path.suffix == ".npz":
        return read_features(path)
    if path.suffix == ".parquet" or (path.is_dir() and any(path.rglob("*.parquet"))):
        return read_parquet(path)
    folders = subfolders(path)
    if not folders:
        what = "has no folders in it" if path.is_dir() else "does not exist"
        raise DataError(f'data = "{path}" {what}. It should be {_FORMS}.')
    roots = {part: path / part for part in ("train", "test")} if "train" in folders else {"train": path}
    names = sorted({name for root in roots.values() for name in subfolders(root)})
    return {part: labelled_files(root, names) for part, root in roots.items() if root.is_dir()}, names


def _labels_of(path: str, own: Sequence[str], names: Sequence[str]) -> Ints:
    """Give the federation's label of each of a site's own classes."""
    label_of = {_plain(name): label for label, name in enumerate(names)}
    unknown = [name for name in own if _plain(name) not in label_of]
    if unknown:
        raise DataError(
            f'data = "{path}" has classes that the federation does not know: {_some_of(unknown)}. Its classes are '
            f"{_some_of(names)}: rename yours, or have the run's `classes` name them."
        )
    return np.array([label_of[_plain(name)] for name in own], np.int64)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _some_of(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _renamed(split: Split, label_of: Ints) -> Split:
    labels = label_of[split.labels]
    if isinstance(split, FeatureSplit):
        return FeatureSplit(split.features, labels, _fingerprint(split, labels))
    return Rows(split, np.arange(len(labels)), labels)


def _some(split: Split, rows: Ints) -> Split:
    if isinstance(split, FeatureSplit):
        return FeatureSplit(split.features[rows], split.labels[rows], _fingerprint(split, rows))
    return Rows(split, rows, split.labels[rows])


def _fingerprint(split: Split, *arrays: Ints) -> str:
    return hashlib.sha256(split.fingerprint.encode() + b"".join(array.tobytes() for array in arrays)).hexdigest()
