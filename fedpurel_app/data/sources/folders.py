"""Data sets that lie as image files on disk: one's own images in folders of classes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import listed, plain_name, printable
from fedpurel_app.data.sources.class_names import usable_names
from fedpurel_app.data.sources.inspection import faults_of_files
from fedpurel_app.data.sources.listing import Listing, find_parts, folders_in, list_images
from fedpurel_app.data.sources.opening import RULES, open_image
from fedpurel_app.data.sources.source import PLAIN_TEMPLATE, Ints, Source, require_there

if TYPE_CHECKING:
    from PIL.Image import Image

_FORM = "It should hold train/CLASS/*.jpg and test/CLASS/*.jpg, with the same classes in both."


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
        digest = hashlib.sha256(b"images %d|" % RULES + self.labels.tobytes())
        for name in self.files:
            path = self.root / name
            try:
                state = path.stat()
            except OSError as error:
                raise DataError(f"{printable(str(path))} cannot be read ({error.strerror}).") from error
            digest.update(os.fsencode(f"{name}|{state.st_size}|{state.st_mtime_ns}\n"))
        return digest.hexdigest()

    @property
    def state(self) -> str:
        """What changes when a file does."""
        return f"{self.root.absolute()}|{self.fingerprint}"

    def faults(self) -> Iterator[str]:
        """Yield, for every file, what is wrong with it by its header; empty where nothing is."""
        return faults_of_files(self.root, self.files)

    def encoded(self, rows: Ints) -> list[Path | bytes]:
        """Return the files of some rows."""
        return [self.root / self.files[int(row)] for row in rows]

    def images(self, rows: Ints) -> list[Image]:
        """Load images by row number, as RGB."""
        return [open_image(self.root / self.files[int(row)]) for row in rows]


def load_imagefolder(path: str, max_per_class: int) -> Source:
    """Load one's own images: ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` below a folder.

    Parameters
    ----------
    path : str
        The folder. Class names are those of the folders, with spaces for underscores, in alphabetical order; both
        parts must have the same classes. Where there is no ``test``, ``val``, ``valid`` or ``validation`` is it.
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
    root, where = require_there(path, "dataset-path", _FORM, "folder"), f'dataset-path = "{printable(path)}"'
    folders = folders_in(root)
    parts, others = find_parts(folders, where)
    if set(parts) != {"train", "test"}:
        missing = " and ".join(f'"{part}"' for part in ("train", "test") if part not in parts)
        there = f"there are {listed([printable(name) for name in folders], 6)}" if folders else "it has none"
        raise DataError(f"{where}: no folder {missing}; {there}. {_FORM}")
    listings = {part: list_images(root / folder) for part, folder in parts.items()}
    names, problems = _shared_classes(listings, parts, where)
    if problems:
        raise DataError(f"{where}: {'; '.join(problems)}. {_FORM}")
    splits = {part: labelled_files(listing, names) for part, listing in listings.items()}
    notes = [line for part, listing in listings.items() for line in listing.notes(printable(parts[part]))]
    if parts["test"].casefold() not in ("test", "testing"):
        notes.insert(0, f"there is no folder test: {parts['test']} is the test part")
    if others:
        notes.insert(0, f"folders beside train and test are left out: {listed([printable(n) for n in others], 5)}")
    return Source("imagefolder", names, PLAIN_TEMPLATE, splits["train"], splits["test"], notes=tuple(notes))


def _shared_classes(
    listings: Mapping[str, Listing], folders: Mapping[str, str], where: str
) -> tuple[tuple[str, ...], list[str]]:
    """Settle the classes of both parts by their names; also what is wrong with them."""
    problems = []
    named = {part: usable_names(list(one.files), f"{where}, {folders[part]}/") for part, one in listings.items()}
    held = {part: {plain_name(name) for name in names} for part, names in named.items()}
    for part, other in (("train", "test"), ("test", "train")):
        lacking = [name for name in named[other] if plain_name(name) not in held[part]]
        empty = {plain_name(name): name for name in listings[part].empty}
        if without := [name for name in lacking if plain_name(name) in empty]:
            said = [f"{name}{listings[part].why_empty(empty[plain_name(name)])}" for name in without]
            problems.append(f"no images in {folders[part]}/ of {listed(said, 6)}")
        if absent := [name for name in lacking if plain_name(name) not in empty]:
            problems.append(f"classes that are in {folders[other]}/ alone: {listed(absent, 6)}")
    if not named["train"] and not problems:
        empty_folders = [f"{printable(name)}{listings['train'].why_empty(name)}" for name in listings["train"].empty]
        problems.append("no classes" + (f": no images in {listed(empty_folders, 6)}" if empty_folders else ""))
    return tuple(sorted(named["train"])), problems


def labelled_files(listing: Listing, names: Sequence[str]) -> FileSplit:
    """Label listed files by the names of their folders; the label is the name's place in the list."""
    folder_of = {plain_name(folder): folder for folder in listing.files}
    return make_split(
        listing.root,
        [
            (file, label)
            for label, name in enumerate(names)
            for file in listing.files.get(folder_of.get(plain_name(name), ""), ())
        ],
    )


def make_split(root: Path, rows: Sequence[tuple[str, int]]) -> FileSplit:
    """Make a split of files below a folder, each with its label."""
    return FileSplit(root, tuple(name for name, _ in rows), np.array([label for _, label in rows], np.int64))
