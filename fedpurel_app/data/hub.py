"""Data sets of the Hugging Face hub, or local folders of the same form."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpurel_app.data.source import PLAIN_TEMPLATE, Ints, Source, Split
from fedpurel_app.errors import DataError
from fedpurel_app.facts import remembered, state_of

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class HubSplit:
    """A split of a ``datasets`` data set."""

    dataset: Any
    image_column: str
    label_column: str

    @cached_property
    def labels(self) -> Ints:
        """Class indices, shape (N,)."""
        return np.asarray(self.dataset.with_format("numpy")[self.label_column][:], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all labels and of all images' bytes."""
        from datasets import Image

        digest = hashlib.sha256(self.labels.tobytes())
        raw = self.dataset.select_columns([self.image_column]).cast_column(self.image_column, Image(decode=False))
        for cell in raw[self.image_column]:
            digest.update(cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes())
        return digest.hexdigest()

    def images(self, rows: Ints) -> list[Image]:
        """Load images by row number, as RGB."""
        return [image.convert("RGB") for image in self.dataset[rows][self.image_column]]


@dataclass(frozen=True)
class HubData:
    """What must be known of a hub data set to load it.

    Attributes
    ----------
    title : str
    repository : str
        Name on the hub.
    image, label : str
        Columns.
    test : str
        Name of the split that is tested on; "train" is trained on.
    template : str
        Zero-shot prompt.
    superclass : str
        Column of superclasses; empty where there are none.
    class_name : callable
        From a name in the label column's features to one for prompts.
    """

    title: str
    repository: str
    image: str = "image"
    label: str = "label"
    test: str = "test"
    template: str = PLAIN_TEMPLATE
    superclass: str = ""
    class_name: Callable[[str], str] = str

    def load(self, path: str, max_per_class: int) -> Source:
        """Load from a local folder in the hub's schema, or from the hub.

        Parameters
        ----------
        path : str
            Folder of parquet files; empty for the hub.
        max_per_class : int
            Unused: the long-tail profile caps classes.

        Returns
        -------
        Source

        Raises
        ------
        DataError
            When the folder or the hub cannot be read, or columns are missing.
        """
        import datasets

        where = path or self.repository
        if path and not Path(path).is_dir():
            raise DataError(
                f'dataset-path = "{path}": no such folder. It should hold the parquet files of {self.repository}.'
            )
        try:
            splits = datasets.load_dataset(where)
        except Exception as error:  # the library raises many kinds; all mean that the data are not to be had
            raise DataError(
                f'{self.title} could not be loaded from "{where}" ({type(error).__name__}: {error}). Set dataset-path '
                f"to a local folder with the parquet files of {self.repository}, or connect to the hub (unset "
                "HF_HUB_OFFLINE)."
            ) from error
        columns = {self.image, self.label} | ({self.superclass} if self.superclass else set())
        for name in ("train", self.test):
            missing = columns - set(splits[name].column_names) if name in splits else {"the whole split"}
            if missing:
                raise DataError(
                    f'"{where}", split "{name}" lacks {sorted(missing)}; {self.title} has columns {sorted(columns)}.'
                )
        names = getattr(splits["train"].features[self.label], "names", None)
        if not names:
            raise DataError(f'"{where}": column "{self.label}" has no class names (a ClassLabel); {self.title} has.')
        train, test = (HubSplit(splits[name], self.image, self.label) for name in ("train", self.test))
        superclass = None
        if self.superclass:
            coarse = np.asarray(splits[self.test].with_format("numpy")[self.superclass][:])
            superclass = tuple(int(coarse[np.argmax(test.labels == label)]) for label in range(len(names)))
        return Source(
            self.title, tuple(self.class_name(name) for name in names), self.template, train, test, superclass
        )


def read_parquet(path: Path) -> tuple[Mapping[str, Split], list[str]]:
    """Read a site's own parquet files.

    Parameters
    ----------
    path : Path
        One file, or a folder; names that begin with "test" or "validation" hold the test part, all others training.

    Returns
    -------
    dict of str to Split
        "train", and "test" where there are such files.
    list of str
        What the labels stand for.

    Raises
    ------
    DataError
        When they cannot be read, or have not one column of images and one of labels with names.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    test = [file for file in files if path.is_dir() and file.name.startswith(("test", "validation"))]
    parts = {"train": [file for file in files if file not in test]} | ({"test": test} if test else {})
    facts = remembered(f"parquet|{state_of(files)}", lambda: _survey(path, parts))
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


def _survey(path: Path, parts: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    splits = _open(path, parts)
    first = splits["train"]
    return {
        "names": list(first.dataset.features[first.label_column].names),
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


def without_wordnet_id(name: str) -> str:
    """Drop the number before a name.

    Examples
    --------
    >>> without_wordnet_id("n02099601-golden_retriever")
    'golden_retriever'
    """
    return re.sub(r"^n\d+-", "", name)
