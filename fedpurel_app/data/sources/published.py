"""Published data sets that lie as image files on disk: by lists of files, or as an official archive."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from fedpurel_app.core.disk_memo import remembered
from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import listed
from fedpurel_app.data.sources.class_names import equal_names, usable_names
from fedpurel_app.data.sources.folders import make_split
from fedpurel_app.data.sources.labels import label_problem
from fedpurel_app.data.sources.source import PLAIN_TEMPLATE, Source


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
        train, test = (self._read(root / name) for name in (self.train, self.test))
        if len(train) != self.count:
            raise DataError(f"{root / self.train} names {len(train):,} images; {self.title} has {self.count:,}.")
        names = self._names(train)
        parts = {"train": train, "test": test}
        wrong = [label_problem(part, [label for _, label in rows], len(names)) for part, rows in parts.items()]
        if any(wrong):
            raise DataError(f"{self.title} in {root}: {'; '.join(filter(None, wrong))}: bring the published lists.")
        splits = [make_split(root, rows) for rows in (train, test)]
        for split in splits:
            absent = [name for name in (*split.files[:1], *split.files[-1:]) if not (root / name).is_file()]
            if absent:
                raise DataError(f"{self.title}: {root / absent[0]} is named in a list and does not exist.")
        notes = [
            f"{twins}: a name of several classes, which zero-shot cannot tell apart" for twins in equal_names(names)
        ]
        return Source(self.title, names, PLAIN_TEMPLATE, splits[0], splits[1], notes=tuple(notes))

    def _read(self, path: Path) -> list[tuple[str, int]]:
        rows = []
        for number, line in enumerate(_lines(path), 1):
            name, _, label = line.strip().rpartition(" ")
            if not name or not label.isdecimal():
                raise DataError(f'{path}, line {number}: expected "path label", found "{line}".')
            rows.append((name, int(label)))
        return rows

    def _names(self, rows: list[tuple[str, int]]) -> tuple[str, ...]:
        """Name the classes; those of the lists are numbers alone."""
        if not self.names_from_paths:
            # open_clip takes seconds to import, and a site has a new process for every message.
            return tuple(remembered(f"ImageNet's names|{metadata.version('open_clip_torch')}", _imagenet_names))
        first: dict[int, str] = {}
        for file, label in rows:
            first.setdefault(label, file)
        if lacking := sorted(set(range(len(first))) - set(first)):
            raise DataError(
                f"{self.title}: {self.train} has no image of {len(lacking)} classes (the first: {lacking[0]}), whose "
                "names cannot be known: bring the published list."
            )
        return usable_names([_place(first[label]) for label in range(len(first))], f"{self.title}, {self.train}")


def _imagenet_names() -> list[str]:
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return list(IMAGENET_CLASSNAMES)


_PARTS = ("trainval", "test")
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
    lines = [line.strip() for line in _lines(data / "variants.txt")]
    names = usable_names([name for name in lines if name], str(data / "variants.txt"))
    splits = [make_split(data / "images", _variants(data / f"images_variant_{p}.txt", names)) for p in _PARTS]
    return Source("FGVC-Aircraft", names, "a type of aircraft, a photo of a {}.", splits[0], splits[1])


def _variants(path: Path, names: Sequence[str]) -> list[tuple[str, int]]:
    """Read lines of an image's number and its variant."""
    label_of = {name: label for label, name in enumerate(names)}
    rows = [line.strip().partition(" ") for line in _lines(path) if line.strip()]
    if unknown := sorted({name for _, _, name in rows} - set(label_of)):
        raise DataError(f"{path} names variants that variants.txt does not: {listed(unknown, 5)}.")
    return [(f"{image}.jpg", label_of[name]) for image, _, name in rows]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error


def _place(name: str) -> str:
    """Return the place that a file of Places shows.

    Examples
    --------
    >>> _place("data_256/a/airport_terminal/00000001.jpg"), _place("data_256/a/apartment_building/outdoor/2.jpg")
    ('airport_terminal', 'apartment_building outdoor')
    """
    folders = Path(name).parts[:-1]
    start = next((index + 1 for index, part in enumerate(folders) if len(part) == 1), 0)
    return " ".join(folders[start:])
