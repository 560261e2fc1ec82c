"""Which kind of data lies at a path."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import plain_name, printable
from fedpurel_app.data.sources.listing import ENDINGS, find_parts, folders_in, is_part_name, list_images
from fedpurel_app.data.sources.manifest_rows import is_table
from fedpurel_app.data.sources.source import require_there

Kind = Literal["manifest", "parquet", "features", "own features", "imagefolder", "folder", "sites"]
KINDS: dict[Kind, str] = {
    "manifest": "a table of images",
    "parquet": "parquet with images",
    "features": "features of images and class texts",
    "own features": "features of images",
    "imagefolder": "images in folders of classes, in parts train and test",
    "folder": "images in folders of classes",
    "sites": "a folder of images for each site",
}
_FORM = (
    "It should be a table of images (.csv, .tsv, .parquet), parquet with images, an .npz of features, a folder with "
    "train/CLASS and test/CLASS, or with CLASS, or with SITE/CLASS."
)


def kind_of(path: Path) -> Kind:
    """Tell the kind of data at a path.

    Raises
    ------
    DataError
        When nothing is there, or nothing of a kind that is known.
    """
    require_there(path, "PATH", _FORM, "file or folder")
    if path.is_file():
        if is_table(path):
            return "manifest"
        if path.suffix.lower() == ".parquet":
            return "parquet"
        if path.suffix.lower() == ".npz":
            return "features" if _has_texts(path) else "own features"
        raise DataError(f"{printable(str(path))} is a file of no kind that is known. {_FORM}")
    folders = folders_in(path)
    listing = list_images(path)
    if not listing.files:
        if any(path.rglob("*.parquet")):
            return "parquet"
        raise DataError(f"{printable(str(path))} holds no image in a folder, and no parquet file. {_FORM}")
    if set(find_parts(folders, printable(str(path)))[0]) == {"train", "test"}:
        return "imagefolder"
    return "sites" if _are_sites(path, list(listing.files)) else "folder"


def _are_sites(path: Path, folders: list[str]) -> bool:
    """Tell whether folders are those of sites: all hold folders alone, of parts, or of classes that two share.

    A class may have folders of its own, as for patients: those are not alike.
    """
    if len(folders) < 2 or any(map(is_part_name, folders)):
        return False
    inner = [folders_in(path / folder) for folder in folders]
    if not all(inner) or any(_has_loose_images(path / folder) for folder in folders):
        return False
    if all(all(map(is_part_name, names)) for names in inner):
        return True
    named = [_classes(path / folder, names) for folder, names in zip(folders, inner, strict=True)]
    return any(one & other for place, one in enumerate(named) for other in named[:place])


def _classes(site: Path, names: list[str]) -> set[str]:
    """Name what would be the classes of a site, without its parts."""
    if all(map(is_part_name, names)):
        names = [name for part in names for name in folders_in(site / part)]
    return {plain_name(name) for name in names}


def _has_loose_images(path: Path) -> bool:
    return any(entry.suffix.lower() in ENDINGS and entry.is_file() for entry in path.iterdir())


def _has_texts(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return "text_features.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile):
        return True  # its reader says what is wrong
