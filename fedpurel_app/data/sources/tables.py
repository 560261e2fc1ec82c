"""Images and labels in tables, as the ``datasets`` library has them: of the hub, or parquet files on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import listed
from fedpurel_app.data.sources.labels import label_problem
from fedpurel_app.data.sources.opening import RULES, fault_of, open_image
from fedpurel_app.data.sources.source import Ints

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_UNPACKED, _MOST_PACKED = 2**28, 50  # bytes, and times the file: encoded images hardly shrink


@dataclass(frozen=True)
class TableSplit:
    """A split of a ``datasets`` data set.

    Attributes
    ----------
    dataset : Dataset
    image_column, label_column : str
    where : str
        What errors call it.
    """

    dataset: Any
    image_column: str
    label_column: str
    where: str

    @cached_property
    def labels(self) -> Ints:
        """Class indices, shape (N,)."""
        return np.asarray(self.dataset.with_format("numpy")[self.label_column][:], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all labels and of all images' bytes."""
        digest = hashlib.sha256(b"images %d|" % RULES + self.labels.tobytes())
        for _, content in self.contents():
            digest.update(content if isinstance(content, bytes) else content.read_bytes())
        return digest.hexdigest()

    def images(self, rows: Ints) -> list[Image]:
        """Load images by row number, as RGB."""
        cells = self._raw[rows][self.image_column]
        return [open_image(_content(cell), self._name(row)) for row, cell in zip(rows, cells, strict=True)]

    def encoded(self, rows: Ints) -> list[Path | bytes]:
        """Return the bytes, or the files, that the images of some rows are in."""
        return [_content(cell) for cell in self._raw[rows][self.image_column]]

    def contents(self) -> Iterator[tuple[str, bytes | Path]]:
        """Yield the name of every row, and the bytes or the file that its image is in."""
        for row, cell in enumerate(self._raw[self.image_column]):
            yield self._name(row), _content(cell)

    @property
    def state(self) -> str:
        """What changes when a file does, as the library knows it."""
        return f"{self.where}|{self.dataset._fingerprint}"

    def faults(self) -> Iterator[str]:
        """Yield, for every row, what is wrong with its image by its header; empty where nothing is."""
        return (fault_of(content, name) for name, content in self.contents())

    def label_problem(self, part: str, classes: int) -> str:
        """Say how many labels stand for no class."""
        return label_problem(part, self.dataset.with_format(None)[self.label_column][:], classes)

    @cached_property
    def _raw(self) -> Any:
        from datasets import Image

        only = self.dataset.select_columns([self.image_column])
        return only.cast_column(self.image_column, Image(decode=False))

    def _name(self, row: int) -> str:
        return f"{self.where}, row {int(row)},"


@dataclass(frozen=True)
class KnownSplit:
    """A split whose labels are known, so that a process with cached features opens no file.

    Attributes
    ----------
    labels : ndarray of int64, shape (N,)
    fingerprint : str
    state : str
        What changes when a file does.
    open : callable
        Gives the split itself.
    """

    labels: Ints
    fingerprint: str
    state: str
    open: Callable[[], TableSplit]

    @classmethod
    def of(cls, facts: Mapping[str, Any], part: str, state: str, open_it: Callable[[], TableSplit]) -> KnownSplit:
        """Make a split of what :func:`facts_of` found out."""
        labels = np.array(facts["labels"][part], np.int64)
        return cls(labels, facts["fingerprints"][part], f"{part}|{state}", open_it)

    @cached_property
    def _whole(self) -> TableSplit:
        return self.open()

    def images(self, rows: Ints) -> list[Image]:
        """Load images by row number, as RGB."""
        return self._whole.images(rows)

    def encoded(self, rows: Ints) -> list[Path | bytes]:
        """Return the bytes, or the files, that the images of some rows are in."""
        return self._whole.encoded(rows)

    def faults(self) -> Iterator[str]:
        """Yield, for every row, what is wrong with its image by its header; empty where nothing is."""
        return self._whole.faults()


def facts_of(splits: Mapping[str, TableSplit]) -> dict[str, Any]:
    """Find out what is to be remembered of splits, by their parts."""
    return {
        "labels": {part: split.labels.tolist() for part, split in splits.items()},
        "fingerprints": {part: split.fingerprint for part, split in splits.items()},
    }


def _content(cell: dict[str, Any] | None) -> bytes | Path:
    if cell is None:
        return b""
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"] or "")


def columns_of(file: Path) -> Any:
    """Read what a parquet file itself says of its columns: the library puts the first file's word over all others'."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            facts = opened.metadata
            unpacked = sum(facts.row_group(index).total_byte_size for index in range(facts.num_row_groups))
            if unpacked > _MOST_UNPACKED and unpacked > _MOST_PACKED * file.stat().st_size:
                raise DataError(
                    f"{file} has {file.stat().st_size:,} bytes and unpacks to {unpacked:,}, as no file of images does: "
                    "it is not opened."
                )
            return datasets.Features.from_arrow_schema(opened.schema_arrow)
    except (OSError, pyarrow.ArrowException, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not a readable parquet file ({type(error).__name__}: {error}).") from error


def names_in(columns: Any, label: str) -> list[str] | None:
    """Return the class names of a label column; None where its labels are text or bare numbers."""
    names = getattr(columns.get(label), "names", None)
    return list(names) if names else None


def refuse_other_names(files: Iterable[Path], label: str, names: Sequence[str], whose: str) -> None:
    """Refuse files whose own class names are others, or in another order, than those their numbers are read by.

    Raises
    ------
    DataError
        Naming the files.
    """
    odd = [file for file in files if (own := names_in(columns_of(file), label)) is not None and own != list(names)]
    if odd:
        own = names_in(columns_of(odd[0]), label) or []
        raise DataError(
            f'{listed([str(file) for file in odd])}: column "{label}" has the class names {listed(own, 6)}; {whose} '
            f"has {listed(list(names), 6)}. A number would stand for another class: write all files with one list."
        )
