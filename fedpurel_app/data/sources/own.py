"""Data that a site brings of its own, under the class names of the federation.

A folder of images, a table of their paths and labels, a folder or file of parquet, or an ``.npz`` of image features;
any subset of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import listed, plain_name
from fedpurel_app.data.sources.class_names import usable_names
from fedpurel_app.data.sources.feature_file import read_features
from fedpurel_app.data.sources.folders import labelled_files
from fedpurel_app.data.sources.listing import Listing, find_parts, folders_in, is_part_name, list_images
from fedpurel_app.data.sources.manifest import own_manifest
from fedpurel_app.data.sources.manifest_rows import Form, is_table
from fedpurel_app.data.sources.parquet import read_parquet
from fedpurel_app.data.sources.source import NO_ROWS, PLAIN_TEMPLATE, FeatureSplit, Ints, Source, Split, require_there
from fedpurel_app.data.sources.subsets import Rows, content_of, hold_out, identities, some_rows

_FORMS = (
    "a folder with one folder of images per class (or train/CLASS and test/CLASS), a table of paths and labels (.csv), "
    "parquet files with a column of images and one of labels, or an .npz of features"
)


def load_own(path: str, class_names: Sequence[str], seed: int, form: Form | None = None, site: str = "") -> Source:
    """Load a site's own data.

    Parameters
    ----------
    path : str
        A folder with ``CLASS/*.jpg``, or with ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg``; parquet (one file, or a
        folder of ``train*.parquet`` and ``test*.parquet``) with a column of images and a column of labels that have
        names; a table of paths and labels (``.csv``, or ``.parquet`` without images); or an ``.npz`` as
        :func:`~fedpurel_app.data.sources.feature_file.read_features` reads it. Empty: no data at all, as a server may
        have it.
    class_names : sequence of str
        Those of the federation, in its order. The data may have any of them, and no other; case, and underscores for
        spaces, do not matter. Empty: the data's own, for a node that looks at itself.
    seed : int
        Deals every class out to training and test, four to one, where there is no test part; by names of files, or
        numbers of rows.
    form : Form, optional
        How a table is to be read.
    site : str
        Whose rows of a table are taken, where it has a column of sites; empty = all.

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
    if is_table(Path(path)):
        wanted = replace(form or Form(), classes=names, seed=seed, natural=False)
        parts, own_names, notes = own_manifest(Path(path), wanted, site)
    else:
        parts, own_names, notes = _read(Path(path))
    names = names or tuple(own_names)
    label_of = _labels_of(path, own_names, names)
    train = _renamed(parts["train"], label_of)
    test = _renamed(parts["test"], label_of) if "test" in parts else None
    if test is None:
        kept, held_out = hold_out(train.labels, identities(parts["train"]), seed)
        train, test = some_rows(train, kept), some_rows(train, held_out)
    if not len(train.labels):
        raise DataError(f'data = "{path}" holds no training image.')
    if not len(test.labels):
        raise DataError(f'data = "{path}" holds no image to test on: add a test part, or a second image of a class.')
    return Source("sites", names, PLAIN_TEMPLATE, train, test, notes=tuple(notes))


def _read(path: Path) -> tuple[Mapping[str, Split], list[str], list[str]]:
    """Read parts "train" and, if there is one, "test", the names that their labels stand for, and what is left out."""
    if path.suffix == ".npz":
        return *read_features(path), []
    if path.suffix == ".parquet":
        return read_parquet(path)
    require_there(path, "data", f"It should be {_FORMS}.", "folder")
    listings, notes = _list_parts(path)
    if any(listing.files for listing in listings.values()):
        if any(path.glob("*.parquet")):
            raise DataError(
                f'data = "{path}" holds parquet files and folders of images: give one of them a folder of its own.'
            )
        if "train" not in listings:
            raise DataError(f'data = "{path}" has a test part and no folder "train". It should be {_FORMS}.')
        folders = sorted({folder for listing in listings.values() for folder in listing.files})
        written = {plain_name(folder): folder for folder in folders}  # each class as one part writes it
        for part, listing in listings.items():
            usable_names(list(listing.files), f'data = "{path}", {part} part')
        names = usable_names(sorted(written.values()), f'data = "{path}"')
        return {part: labelled_files(listing, names) for part, listing in listings.items()}, list(names), notes
    if any(path.rglob("*.parquet")):  # after the images: of those there may be very many
        return read_parquet(path)
    held = [f"{name}{one.why_empty(name)}" for one in listings.values() for name in one.empty]
    what = f"holds no training image: {listed(held)}" if held else "has no folders in it"
    raise DataError(f'data = "{path}" {what}. It should be {_FORMS}.')


def _list_parts(path: Path) -> tuple[dict[str, Listing], list[str]]:
    """List the images by part; all are training where folders of classes lie at the top."""
    whole = list_images(path)
    # A class may be called "train": parts are only what has folders in it, beside nothing else that holds an image.
    in_parts = all(map(is_part_name, whole.files)) and any(folders_in(path / folder) for folder in whole.files)
    if not in_parts:
        return {"train": whole}, whole.notes()
    parts, others = find_parts(list(whole.files), f'data = "{path}"')
    listings = {part: list_images(path / folder) for part, folder in parts.items()}
    notes = [line for part, listing in listings.items() for line in listing.notes(parts[part])]
    if odd := [*others, *whole.empty]:
        notes.insert(0, f"folders beside train and test are left out: {listed(odd, 5)}")
    return listings, notes


def _labels_of(path: str, own: Sequence[str], names: Sequence[str]) -> Ints:
    """Return the federation's label of each of a site's own classes."""
    label_of = {plain_name(name): label for label, name in enumerate(names)}
    unknown = [name for name in own if plain_name(name) not in label_of]
    if unknown:
        hint = ""
        if any(map(is_part_name, unknown)):
            hint = ' Folders "train" and "test" (or "val") are parts only where there is no other.'
        raise DataError(
            f'data = "{path}" has classes that the federation does not know: {listed(unknown, 10)}. Its classes are '
            f"{listed(names, 10)}: rename yours, or have the run's `classes` name them.{hint}"
        )
    return np.array([label_of[plain_name(name)] for name in own], np.int64)


def _renamed(split: Split, label_of: Ints) -> Split:
    labels = label_of[split.labels]
    if isinstance(split, FeatureSplit):
        return FeatureSplit(split.features, labels, content_of(split, labels))
    return Rows(split, np.arange(len(labels)), labels)
