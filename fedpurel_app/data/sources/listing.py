"""What lies in folders of classes: images, and what is left out of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import listed, printable
from fedpurel_app.data.sources.class_names import is_system
from fedpurel_app.data.sources.dicom import DICOM_ENDINGS

_PILLOW = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm")
ENDINGS = frozenset((*_PILLOW, *DICOM_ENDINGS))
Kind = Literal["folder", "file", "other"]
ROLES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val"),
}


@dataclass
class Listing:
    """Image files in folders of classes.

    Attributes
    ----------
    root : Path
    files : dict of str to list of str
        Paths below the root, sorted, by the name of each folder that holds an image at any depth.
    empty : list of str
        Folders without an image.
    left_out : dict of str to Counter of str
        Numbers of other files by folder ("" for the root itself) and by ending.
    loose : int
        Images in the root itself, in no folder of a class.
    skipped : list of str
        Folders that are hidden, or a system's, anywhere below the root.
    """

    root: Path
    files: dict[str, list[str]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    loose: int = 0
    skipped: list[str] = field(default_factory=list)

    def notes(self, part: str = "") -> list[str]:
        """Say what is left out, one line for each kind."""
        place = f"{part}/: " if part else ""
        found = []
        if self.empty:
            found.append(f"{place}folders without an image are no classes: {_named(self.empty)}")
        if self.skipped:
            found.append(f"{place}hidden folders, and those of a system, are left out: {_named(self.skipped)}")
        if self.loose:
            found.append(f"{place}{self.loose:,} images outside the folders of classes are left out")
        if total := sum(self.left_out.values(), Counter()):
            found.append(f"{place}{total.total():,} files without an image's ending are left out: {_kinds(total)}")
        return found

    def why_empty(self, folder: str) -> str:
        """Say of a folder without images what it holds instead; empty where it holds nothing."""
        there = self.left_out.get(folder)
        return f" (it holds {_kinds(there)})" if there else ""


def list_images(root: Path) -> Listing:
    """List the images in every folder below a root, and what is left out."""
    found = Listing(root)
    for name, kind in _entries(root):
        if kind != "folder":
            found.loose += kind == "file" and _is_image(name)
        elif is_system(name):
            found.skipped.append(name)
        else:
            files = sorted(_walk(root, name, name, found), key=lambda path: path.split("/"))
            if files:
                found.files[name] = files
            else:
                found.empty.append(name)
    return found


def image_files(root: Path) -> list[str]:
    """Return the paths below a root of all images in it and in its folders, sorted."""
    loose = [name for name, kind in _entries(root) if kind == "file" and _is_image(name)]
    return sorted((*loose, *(name for names in list_images(root).files.values() for name in names)))


def folders_in(path: Path) -> list[str]:
    """Name the folders in a folder that are neither hidden nor a system's, sorted; none where there is no folder."""
    if not path.is_dir():
        return []
    return [name for name, kind in _entries(path) if kind == "folder" and not is_system(name)]


def find_parts(names: Sequence[str], where: str) -> tuple[dict[str, str], list[str]]:
    """Find the folders of the training and the test part by their names, in any case.

    Parameters
    ----------
    names : sequence of str
        Of folders.
    where : str
        What the error begins with.

    Returns
    -------
    dict of str to str
        Of "train" and "test" those that are there, with the folder's name. Where there is no "test", "validation"
        ("val", "valid") is the test part.
    list of str
        The other folders.

    Raises
    ------
    DataError
        When two folders could be the same part.
    """
    found: dict[str, list[str]] = {role: [n for n in names if n.casefold() in known] for role, known in ROLES.items()}
    if found["test"]:
        del found["validation"]
    elif found["validation"]:
        found["test"] = found.pop("validation")
    for role, claims in found.items():
        if len(claims) > 1:
            raise DataError(f"{where}: {' and '.join(claims)} could both be the {role} part: rename one of them.")
    parts = {role: claims[0] for role, claims in found.items() if claims}
    return parts, [name for name in names if name not in parts.values()]


def is_part_name(name: str) -> bool:
    """Tell whether a folder's name is that of a part, and so hardly that of a class."""
    return any(name.casefold() in known for known in ROLES.values())


def file_role(path: Path) -> str:
    """Tell whether a file is of the "train", "test" or "validation" part, by its name and those of its folders.

    Examples
    --------
    >>> [file_role(Path(name)) for name in ("a.parquet", "test-0.parquet", "val/0.parquet", "values.parquet")]
    ['train', 'test', 'validation', 'train']
    """
    parts = [part.casefold() for part in path.parts]
    if any(part.startswith("test") for part in parts):
        return "test"
    return "validation" if any(re.match(r"validation|(val|valid)(?![a-z])", part) for part in parts) else "train"


def _walk(root: Path, relative: str, folder: str, found: Listing) -> Iterator[str]:
    """Yield the image files below a folder, and note what is left out."""
    for name, kind in _entries(root / relative):
        path = f"{relative}/{name}"
        if kind == "folder":
            if is_system(name):
                found.skipped.append(path)
            elif not (root / path).is_symlink():  # which may lead back up
                yield from _walk(root, path, folder, found)
        elif kind == "file" and _is_image(name):
            yield path
        elif not name.startswith("."):
            ending = Path(name).suffix.lower() or "without ending" if kind == "file" else "no regular file"
            found.left_out.setdefault(folder, Counter())[ending] += 1


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in ENDINGS and not name.startswith(".")


def _entries(path: Path) -> list[tuple[str, Kind]]:
    """Name what is in a folder, sorted, with its kind; a link that leads nowhere is a file, which cannot be read."""
    try:
        with os.scandir(path) as entries:
            return sorted((entry.name, _kind(entry)) for entry in entries)
    except OSError as error:
        raise DataError(f"{printable(str(path))} cannot be read ({error.strerror}).") from error


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_dir():
        return "folder"
    if entry.is_file():
        return "file"
    return "file" if entry.is_symlink() and not Path(entry.path).exists() else "other"


def _named(names: Sequence[str]) -> str:
    return listed([printable(name) for name in names], 5)


def _kinds(endings: Counter[str]) -> str:
    return listed([f"{count:,} {printable(ending)}" for ending, count in endings.most_common()], 6)
