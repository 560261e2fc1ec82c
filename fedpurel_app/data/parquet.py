"""Parquet files that a site brings of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpurel_app.data.hub import HubSplit
from fedpurel_app.data.source import Ints, Split
from fedpurel_app.errors import DataError
from fedpurel_app.facts import remembered, state_of

if TYPE_CHECKING:
    from PIL.Image import Image


def read_parquet(path: Path) -> tuple[Mapping[str, Split], list[str]]:
    """Read a site's own parquet files.

    Parameters
    ----------
    path : Path
        One file, which is all training; or a folder, where files whose name, or whose folder's name, begins with "test"
        or "validation" are the test part, and all others training.

    Returns
    -------
    dict of str to Split
        "train", and "test" where there are such files.
    list of str
        What the labels stand for.

    Raises
    ------
    DataError
        When they cannot be read, have not one column of images and one of labels with names, or have rows without an
        image or a label.
    """
    if not path.exists():
        raise DataError(f'data = "{path}" does not exist.')
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    test = [file for file in files if path.is_dir() and _is_test(file.relative_to(path))]
    parts = {"train": [file for file in files if file not in test]} | ({"test": test} if test else {})
    if not parts["train"]:
        raise DataError(f'data = "{path}": all parquet files are a test part by their names; there must be others.')
    key = "|".join(f"{part}:{state_of(chosen)}" for part, chosen in parts.items())
    facts = remembered(f"parquet|{key}", lambda: _survey(path, parts))
    splits = {
        part: KnownSplit(
            np.array(facts["labels"][part], np.int64),
            facts["fingerprints"][part],
            partial(_open_part, path, parts, part),
        )
        for part in parts
    }
    return splits, facts["names"]


@dataclass(frozen=True)
class KnownSplit:
    """A split whose labels are known, so that a process with cached features opens no file.

    Attributes
    ----------
    labels : ndarray of int64, shape (N,)
    fingerprint : str
    open : callable
        Gives the split itself.
    """

    labels: Ints
    fingerprint: str
    open: Callable[[], HubSplit]

    @cached_property
    def _whole(self) -> HubSplit:
        return self.open()

    def images(self, rows: Ints) -> list[Image]:
        """Load images by row number, as RGB."""
        return self._whole.images(rows)


def _is_test(file: Path) -> bool:
    return any(part.startswith(("test", "validation")) for part in file.parts)


def _survey(path: Path, parts: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    splits = _open(path, parts)
    first = splits["train"]
    names = first.dataset.features[first.label_column].names
    for part, split in splits.items():
        known = np.array([0 <= label < len(names) for label in split.dataset.with_format(None)[split.label_column]])
        if not known.all():
            raise DataError(
                f'data = "{path}": {int((~known).sum())} of {len(known)} rows of the {part} part have a label outside '
                f"0 to {len(names) - 1}, as unlabelled rows have: take them out."
            )
    return {
        "names": list(names),
        "labels": {part: split.labels.tolist() for part, split in splits.items()},
        "fingerprints": {part: split.fingerprint for part, split in splits.items()},
    }


def _open_part(path: Path, parts: Mapping[str, Sequence[Path]], part: str) -> HubSplit:
    return _open(path, parts)[part]


def _open(path: Path, parts: Mapping[str, Sequence[Path]]) -> dict[str, HubSplit]:
    """Open parquet files, part by part, with images and named classes under one scheme."""
    import datasets

    try:
        splits = datasets.load_dataset(
            "parquet", data_files={part: [str(file) for file in paths] for part, paths in parts.items()}
        )
    except Exception as error:  # the library raises many kinds; all mean that the data are not to be had
        raise DataError(
            f'data = "{path}": parquet files that cannot be read ({type(error).__name__}: {error}).'
        ) from error
    columns = splits["train"].features
    images = [name for name, kind in columns.items() if isinstance(kind, datasets.Image) or _holds_bytes(kind)]
    labels = [name for name, kind in columns.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [name for name, kind in columns.items() if getattr(kind, "dtype", "") == "string"]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f'data = "{path}" has columns {", ".join(columns)}: there must be one of images (encoded, as the '
            "`datasets` library stores them) and one of labels (its type ClassLabel, or text)."
        )
    image, label = images[0], labels[0]
    for name in (image, label):
        empty = sum(sum(column.null_count for column in split.data.table[name].chunks) for split in splits.values())
        if empty:
            raise DataError(
                f'data = "{path}": {empty} rows have nothing in column "{name}": fill it, or take them out.'
            )
    if not isinstance(columns[label], datasets.ClassLabel):
        found = sorted({name for split in splits.values() for name in split.unique(label)})
        splits = splits.cast_column(label, datasets.ClassLabel(names=found))
    names = list(splits["train"].features[label].names)
    if any(split.features[label].names != names for split in splits.values()):
        raise DataError(f'data = "{path}": training and test part differ in the class names of column "{label}".')
    splits = splits.cast_column(image, datasets.Image())
    return {part: HubSplit(split, image, label) for part, split in splits.items()}


def _holds_bytes(kind: Any) -> bool:
    """Tell whether a column holds encoded images without saying so: bytes, or a struct of bytes and a path."""
    return getattr(kind, "dtype", "") == "binary" or (isinstance(kind, dict) and "bytes" in kind)
