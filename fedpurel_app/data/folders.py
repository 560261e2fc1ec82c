"""Data sets that lie as image files on disk: one's own images, and published lists of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedpurel_app.data.source import PLAIN_TEMPLATE, Ints, Source
from fedpurel_app.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class FileSplit:
    """Image files and their labels.

    Attributes
    ----------
    root : Path
    files : tuple of str
        Paths below the root.
    labels : ndarray of int64, shape (N,)
    """

    root: Path
    files: tuple[str, ...]
    labels: Ints

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of names, sizes, times of change and labels; the content may be too much to read at every start."""
        digest = hashlib.sha256(self.labels.tobytes())
        for name in self.files:
            state = (self.root / name).stat()
            digest.update(f"{name}|{state.st_size}|{state.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def images(self, rows: Ints) -> list[Image]:
        """Load images by row number, as RGB."""
        from PIL import Image

        found = []
        for row in rows:
            path = self.root / self.files[int(row)]
            try:
                with Image.open(path) as image:
                    found.append(image.convert("RGB"))
            except OSError as error:
                raise DataError(f"{path} is not a readable image ({error}): mend it, or take it away.") from error
        return found


def load_imagefolder(path: str, max_per_class: int) -> Source:
    """Load one's own images: ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` below a folder.

    Parameters
    ----------
    path : str
        The folder. Class names are those of the folders, with spaces for underscores, in alphabetical order; both
        parts must have the same classes.
    max_per_class : int
        Unused: the long-tail profile caps classes.

    Returns
    -------
    Source

    Raises
    ------
    DataError
        When the folder is not of that form.
    """
    root = Path(path)
    form = "It should hold train/CLASS/*.jpg and test/CLASS/*.jpg, with the same classes in both."
    if not path or not root.is_dir():
        raise DataError(f'dataset-path = "{path}": no such folder. {form}')
    classes = {part: subfolders(root / part) for part in ("train", "test")}
    if not classes["train"] or classes["train"] != classes["test"]:
        odd = sorted(set(classes["train"]) ^ set(classes["test"]))
        what = f"classes that are in one part alone: {', '.join(odd[:6])}" if odd else "no classes"
        raise DataError(f'dataset-path = "{path}": {what}. {form}')
    splits = []
    for part in ("train", "test"):
        split = labelled_files(root / part, classes[part])
        if empty := [name for label, name in enumerate(classes[part]) if label not in split.labels]:
            raise DataError(f'dataset-path = "{path}": no images in {part}/ of {", ".join(empty[:6])}. {form}')
        splits.append(split)
    return Source("imagefolder", tuple(classes["train"]), PLAIN_TEMPLATE, splits[0], splits[1])


def labelled_files(root: Path, names: Sequence[str]) -> FileSplit:
    """List the image files below ``root/NAME`` for every name; the label is the name's place in the list."""
    files = [
        (str(file.relative_to(root)), label)
        for label, name in enumerate(names)
        for file in sorted((root / name).rglob("*"))
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")
    ]
    return _split(root, files)


@dataclass(frozen=True)
class ListedData:
    """A data set with a natural long tail, published as lists of files: lines of a path and a label.

    Attributes
    ----------
    title : str
    train, test : str
        Names of the list files, in ``dataset-path``; images lie below it too.
    count : int
        Number of training images.
    names_from_paths : bool
        Take class names from the folders of the files, instead of ImageNet's.
    """

    title: str
    train: str
    test: str
    count: int
    names_from_paths: bool

    def load(self, path: str, max_per_class: int) -> Source:
        """Load from a folder that holds the lists and the images.

        Raises
        ------
        DataError
            When lists or images are missing, or the number of training images is not the published one.
        """
        root = Path(path)
        missing = [name for name in (self.train, self.test) if not path or not (root / name).is_file()]
        if missing:
            raise DataError(
                f"{self.title} needs dataset-path: a folder with {', '.join(missing)} as published (lines of "
                f'"path label"), and the images that are named there; got "{path}".'
            )
        splits = [_split(root, self._read(root / name)) for name in (self.train, self.test)]
        if len(splits[0].labels) != self.count:
            raise DataError(
                f"{root / self.train} names {len(splits[0].labels):,} images; {self.title} has {self.count:,}."
            )
        for split in splits:
            absent = [name for name in (split.files[0], split.files[-1]) if not (root / name).is_file()]
            if absent:
                raise DataError(f"{self.title}: {root / absent[0]} is named in a list and does not exist.")
        return Source(self.title, self._names(splits[0]), PLAIN_TEMPLATE, splits[0], splits[1])

    def _read(self, path: Path) -> list[tuple[str, int]]:
        rows = []
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            name, _, label = line.strip().rpartition(" ")
            if not name or not label.isdecimal():
                raise DataError(f'{path}, line {number}: expected "path label", found "{line}".')
            rows.append((name, int(label)))
        return rows

    def _names(self, split: FileSplit) -> tuple[str, ...]:
        if not self.names_from_paths:
            from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

            return tuple(IMAGENET_CLASSNAMES)
        first = [split.files[int(np.argmax(split.labels == label))] for label in range(int(split.labels.max()) + 1)]
        return tuple(_place(name) for name in first)


_AIRCRAFT = "fgvc-aircraft-2013b.tar.gz of robots.ox.ac.uk/~vgg/data/fgvc-aircraft"


def load_aircraft(path: str, max_per_class: int) -> Source:
    """Load FGVC-Aircraft, 100 variants, from its official archive; downloaded by torchvision where it is absent.

    Parameters
    ----------
    path : str
        Folder that holds, or will hold, ``fgvc-aircraft-2013b``; needed.
    max_per_class : int
        Unused: the long-tail profile caps classes.

    Raises
    ------
    DataError
        When it is not there and cannot be downloaded.
    """
    if not path:
        raise DataError('dataset = "aircraft" needs dataset-path: a folder for the archive fgvc-aircraft-2013b.')
    data = Path(path) / "fgvc-aircraft-2013b" / "data"
    if not (data / "variants.txt").is_file():
        from torchvision.datasets import FGVCAircraft

        try:
            if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
                raise ConnectionError("HF_HUB_OFFLINE is set")
            FGVCAircraft(path, "trainval", "variant", download=True)
        except Exception as error:  # torchvision raises many kinds; all mean that the data are not to be had
            absent = DataError(
                f"FGVC-Aircraft is not in {path} and could not be downloaded ({type(error).__name__}: {error}). Unpack "
                f"{_AIRCRAFT} there."
            )
            absent.download = _AIRCRAFT
            raise absent from error
    names = (data / "variants.txt").read_text("utf-8").split("\n")
    names = [name.strip() for name in names if name.strip()]
    splits = []
    for part in ("trainval", "test"):
        lines = (data / f"images_variant_{part}.txt").read_text("utf-8").splitlines()
        rows = [line.strip().split(" ", 1) for line in lines if line.strip()]
        splits.append(_split(data / "images", [(f"{image}.jpg", names.index(name)) for image, name in rows]))
    return Source("FGVC-Aircraft", tuple(names), "a type of aircraft, a photo of a {}.", splits[0], splits[1])


def _split(root: Path, rows: list[tuple[str, int]]) -> FileSplit:
    return FileSplit(root, tuple(name for name, _ in rows), np.array([label for _, label in rows], np.int64))


def subfolders(path: Path) -> list[str]:
    """Name the folders in a folder, sorted; none where there is no such folder, and none that is hidden."""
    if not path.is_dir():
        return []
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _place(name: str) -> str:
    """Give the place that a file of Places shows.

    Examples
    --------
    >>> _place("data_256/a/airport_terminal/00000001.jpg"), _place("data_256/a/apartment_building/outdoor/2.jpg")
    ('airport_terminal', 'apartment_building outdoor')
    """
    folders = Path(name).parts[:-1]
    start = next((index + 1 for index, part in enumerate(folders) if len(part) == 1), 0)
    return " ".join(folders[start:])
