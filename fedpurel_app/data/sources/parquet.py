"""Parquet files that a site brings of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedpurel_app.core.disk_memo import remembered, state_of
from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import listed
from fedpurel_app.data.sources.class_names import usable_names
from fedpurel_app.data.sources.listing import file_role
from fedpurel_app.data.sources.opening import RULES
from fedpurel_app.data.sources.source import Split, require_there
from fedpurel_app.data.sources.tables import KnownSplit, TableSplit, columns_of, facts_of, names_in

Files = Mapping[str, Sequence[Path]]


def read_parquet(path: Path) -> tuple[Mapping[str, Split], list[str], list[str]]:
    """Read a site's own parquet files.

    Parameters
    ----------
    path : Path
        One file, which is all training; or a folder, where files whose name, or whose folder's name, begins with "test"
        are the test part (where there is none, those with "validation", "val" or "valid"), and all others training.

    Returns
    -------
    dict of str to Split
        "train", and "test" where there are such files.
    list of str
        What the labels stand for: names, by which the numbers of every file were read.
    list of str
        What was left out.

    Raises
    ------
    DataError
        When they cannot be read, have not one column of images and one of labels with names, or have rows without
        an image or a label.
    """
    require_there(path, "data", "It should be a parquet file, or a folder of them.", "file or folder")
    parts, notes = _parts(path)
    if not parts["train"]:
        raise DataError(f'data = "{path}": all parquet files are a test part by their names; there must be others.')
    key = "|".join(f"{part}:{state_of(chosen)}" for part, chosen in parts.items())
    facts = remembered(f"parquet {RULES}|{key}", lambda: _survey(path, parts))
    splits = {part: KnownSplit.of(facts, part, key, partial(_open_part, path, parts, part)) for part in parts}
    return splits, facts["names"], notes


def _parts(path: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Tell files of the training part from those of the test part; also what is left out."""
    if path.is_file():
        return {"train": [path]}, []
    by_role: dict[str, list[Path]] = {"train": [], "test": [], "validation": []}
    for file in sorted(path.rglob("*.parquet")):
        below = file.relative_to(path)
        if not any(part.startswith((".", "@")) for part in below.parts):
            by_role[file_role(below)].append(file)
    notes = []
    if by_role["test"] and by_role["validation"]:
        notes.append(
            f"{len(by_role['validation'])} parquet files of a validation part are left out, beside a test part"
        )
    test = by_role["test"] or by_role["validation"]
    return {"train": by_role["train"]} | ({"test": test} if test else {}), notes


def _survey(path: Path, parts: Files) -> dict[str, Any]:
    """Find out what a new process for every message must know, and refuse what cannot be read."""
    splits, names = _open(path, parts)
    _refuse_nothing(path, splits)
    wrong = [split.label_problem(part, len(names)) for part, split in splits.items()]
    if any(wrong):
        raise DataError(f'data = "{path}": {"; ".join(filter(None, wrong))}. Take these rows out.')
    return {"names": list(usable_names(names, f'data = "{path}"')), **facts_of(splits)}


def _refuse_nothing(path: Path, splits: Mapping[str, TableSplit]) -> None:
    """Refuse rows without an image."""
    for part, split in splits.items():
        empty = sum(column.null_count for column in split.dataset.data.table[split.image_column].chunks)
        if empty:
            raise DataError(
                f'data = "{path}": {empty} of {len(split.dataset)} rows of the {part} part have nothing in column '
                f'"{split.image_column}": fill it, or take them out.'
            )


def _open_part(path: Path, parts: Files, part: str) -> TableSplit:
    return _open(path, parts)[0][part]


def _open(path: Path, parts: Files) -> tuple[dict[str, TableSplit], list[str]]:
    """Open parquet files, part by part, and name the classes; files with other names are read by their own."""
    import datasets

    columns = {file: columns_of(file) for files in parts.values() for file in files}
    image, label = _image_and_label(path, next(iter(columns.values())))
    own = {file: _names_of(file, one, label) for file, one in columns.items()}
    try:
        if len({None if names is None else tuple(names) for names in own.values()}) == 1:
            data_files = {part: [str(file) for file in files] for part, files in parts.items()}
            opened = dict(datasets.load_dataset("parquet", data_files=data_files))
        else:
            opened = {part: _in_words(files, image, label, own) for part, files in parts.items()}
    except DataError:
        raise
    except Exception as error:  # the library raises many kinds; all mean that the data are not to be had
        raise DataError(
            f'data = "{path}": parquet files that cannot be read ({type(error).__name__}: {error}).'
        ) from error
    names = names_in(next(iter(opened.values())).features, label)
    if names is None:
        names = sorted({name for split in opened.values() for name in split.unique(label) if name is not None})
        opened = {part: split.cast_column(label, datasets.ClassLabel(names=names)) for part, split in opened.items()}
    return {
        part: TableSplit(split, image, label, f'data = "{path}", {part} part') for part, split in opened.items()
    }, names


def _image_and_label(path: Path, columns: Any) -> tuple[str, str]:
    """Find the one column of images and the one of labels."""
    import datasets

    images = [name for name, kind in columns.items() if isinstance(kind, datasets.Image) or _holds_bytes(kind)]
    labels = [name for name, kind in columns.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [name for name, kind in columns.items() if _holds_text(kind)]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f'data = "{path}" has columns {", ".join(columns)}: there must be one of images (encoded, as the '
            "`datasets` library stores them) and one of labels (its type ClassLabel, or text)."
        )
    return images[0], labels[0]


def _names_of(file: Path, columns: Any, label: str) -> list[str] | None:
    """Return a file's own class names, None where its labels are text; numbers without names are refused."""
    names = names_in(columns, label)
    if names is None and not _holds_text(columns.get(label)):
        raise DataError(
            f'{file}: column "{label}" has no class names of its own, as other files there have: write it with the '
            f"same type (ClassLabel), or as text. It has columns {listed(list(columns), 10)}."
        )
    return names


def _in_words(files: Sequence[Path], image: str, label: str, own: Mapping[Path, Sequence[str] | None]) -> Any:
    """Join files whose labels are numbered differently, with labels in words."""
    import datasets

    found = []
    for file in files:
        table = datasets.Dataset.from_parquet(str(file)).select_columns([image, label])
        names = own[file]
        if names is not None:
            split = TableSplit(table, image, label, str(file))
            if wrong := split.label_problem("", len(names)):
                raise DataError(f"{file}: {wrong}. Take these rows out.")
            words = [names[number] for number in split.labels]
            table = table.remove_columns(label).add_column(label, words)
        found.append(table.cast_column(image, datasets.Image(decode=False)))
    return datasets.concatenate_datasets(found)


def _holds_bytes(kind: Any) -> bool:
    """Tell whether a column holds encoded images without saying so: bytes, or a struct of bytes and a path."""
    return getattr(kind, "dtype", "") == "binary" or (isinstance(kind, dict) and "bytes" in kind)


def _holds_text(kind: Any) -> bool:
    return getattr(kind, "dtype", "") in ("string", "large_string")
