"""Data sets of the Hugging Face hub, or local folders of the same form."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpurel_app.data.source import PLAIN_TEMPLATE, Ints, Source
from fedpurel_app.errors import DataError

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
            absent = DataError(
                f'{self.title} could not be loaded from "{where}" ({type(error).__name__}: {error}). Set dataset-path '
                f"to a local folder with the parquet files of {self.repository}, or connect to the hub (unset "
                "HF_HUB_OFFLINE)."
            )
            absent.download = "" if path else f"{self.title} from huggingface.co/datasets/{self.repository}"
            raise absent from error
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


def without_wordnet_id(name: str) -> str:
    """Drop the number before a name.

    Examples
    --------
    >>> without_wordnet_id("n02099601-golden_retriever")
    'golden_retriever'
    """
    return re.sub(r"^n\d+-", "", name)
