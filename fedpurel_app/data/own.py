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
from fedpurel_app.data.folders import FileSplit, labelled_files, subfolders
from fedpurel_app.data.parquet import read_parquet
from fedpurel_app.data.source import PLAIN_TEMPLATE, FeatureSplit, Ints, Source, Split
from fedpurel_app.errors import DataError
from fedpurel_app.naming import listed, plain_name
from fedpurel_app.seeding import derive_seed

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
        Deals every class out to training and test, four to one, where there is no test part; by names of files, or
        numbers of rows.

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
        kept, held_out = hold_out(train.labels, _identities(parts["train"]), seed)
        train, test = _some(train, kept), _some(train, held_out)
    if not len(train.labels):
        raise DataError(f'data = "{path}" holds no training image.')
    if not len(test.labels):
        raise DataError(f'data = "{path}" holds no image to test on: add a test part, or a second image of a class.')
    return Source("sites", names, PLAIN_TEMPLATE, train, test)


def hold_out(labels: Ints, identities: Sequence[str], seed: int) -> tuple[Ints, Ints]:
    """Deal rows out to training and test, class by class.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    identities : sequence of str, length N
        What is dealt out by: as few rows as possible change sides when others come or go.
    seed : int

    Returns
    -------
    (ndarray, ndarray) of int64
        Ascending row numbers. Of a class with n rows, ``n // 5`` are tested on; but one as soon as there are two.
    """
    lots = np.array([derive_seed(seed, name) for name in identities], np.int64)
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = max(int(TEST_SHARE * len(rows)), int(len(rows) > 1))
        test[rows[np.argsort(lots[rows], kind="stable")[:count]]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def _identities(split: Split) -> Sequence[str]:
    return split.files if isinstance(split, FileSplit) else [str(row) for row in range(len(split.labels))]


def _read(path: Path) -> tuple[Mapping[str, Split], list[str]]:
    """Read parts "train" and, if there is one, "test", and the names that their labels stand for."""
    if path.suffix == ".npz":
        return read_features(path)
    if path.suffix == ".parquet":
        return read_parquet(path)
    folders = subfolders(path)
    # A class may be called "train": only nothing but these two, with folders in them, are parts.
    in_parts = set(folders) <= {"train", "test"} and any(subfolders(path / part) for part in folders)
    roots = {part: path / part for part in folders} if in_parts else {"train": path}
    names = sorted({name for root in roots.values() for name in subfolders(root)})
    parts = {part: labelled_files(root, names) for part, root in roots.items()}
    if any(part.files for part in parts.values()):
        if any(path.glob("*.parquet")):
            raise DataError(
                f'data = "{path}" holds parquet files and folders of images: give one of them a folder of its own.'
            )
        if "train" in parts:
            return parts, names
        raise DataError(f'data = "{path}" has a test part and no folder "train". It should be {_FORMS}.')
    if path.is_dir() and any(path.rglob("*.parquet")):  # after the images: of those there may be very many
        return read_parquet(path)
    if folders:
        raise DataError(f'data = "{path}" holds no training image. It should be {_FORMS}.')
    what = "has no folders in it" if path.is_dir() else "does not exist"
    raise DataError(f'data = "{path}" {what}. It should be {_FORMS}.')


def _labels_of(path: str, own: Sequence[str], names: Sequence[str]) -> Ints:
    """Give the federation's label of each of a site's own classes."""
    label_of = {plain_name(name): label for label, name in enumerate(names)}
    unknown = [name for name in own if plain_name(name) not in label_of]
    if unknown:
        hint = ' Folders "train" and "test" are parts only where there is no other.' if "train" in unknown else ""
        raise DataError(
            f'data = "{path}" has classes that the federation does not know: {listed(unknown, 10)}. Its classes are '
            f"{listed(names, 10)}: rename yours, or have the run's `classes` name them.{hint}"
        )
    return np.array([label_of[plain_name(name)] for name in own], np.int64)


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
