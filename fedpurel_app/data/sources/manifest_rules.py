"""What may be wrong with the rows of a table of images: every function lists all that it finds, a line each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import clean, composed, is_safe_name, listed, plain_name
from fedpurel_app.data.sources.class_names import equal_names, usable_names
from fedpurel_app.data.sources.listing import ROLES
from fedpurel_app.data.sources.manifest_rows import Row, Rows, is_number

_WORDS = {**ROLES, "validation": (*ROLES["validation"], "dev", "development")}  # which as a folder may be a class
SPLITS = ("train", "validation", "test")
_REPEATS = {  # what is wrong with an image of several rows, worst first, and what to do
    "have more than one label": "decide on one",
    "are in more than one split": "what is tested on must not be trained on: leave each in one",
    "are at more than one site": "leave each at one",
    "stand in it more than once": "leave one row of each",
}


def split_of(text: str) -> str:
    """Return which split a cell means; empty where it means none.

    Examples
    --------
    >>> [split_of(text) for text in ("Train", "dev", "TEST", "fold 1")]
    ['train', 'validation', 'test', '']
    """
    return next((split for split in SPLITS if text.casefold() in _WORDS[split]), "")


def cell_problems(table: Rows) -> list[str]:
    """List empty cells, words that are no split, and sites that cannot be names."""
    problems = []
    for part, name in table.columns.items():
        if empty := [row for row in table.rows if not getattr(row, part)]:
            said = (
                f'{len(empty):,} of {len(table.rows):,} rows have no {part} in column "{name}" ({table.where(empty)})'
            )
            problems.append(f"{said}: fill it in, or take the rows out")
    if odd := [row for row in table.rows if "split" in table.columns and row.split and not split_of(row.split)]:
        words = listed(sorted({f'"{clean(row.split, 40)}"' for row in odd}), 5)
        known = ", ".join(name for split in SPLITS for name in _WORDS[split])
        problems.append(
            f"{len(odd):,} rows are of split {words} ({table.where(odd)}): write one of {known}, in any case"
        )
    return problems


def site_problems(table: Rows) -> list[str]:
    """List names of sites that cannot be those of folders, or that are hardly two sites."""
    names = sorted({row.site for row in table.rows if row.site})
    problems = []
    if odd := [f'"{clean(name, 70)}"' for name in names if not is_safe_name(name)]:
        problems.append(
            f"{len(odd)} names of sites cannot be used ({listed(odd, 5)}): rename them in the table, with 1 to 64 "
            f'letters (a to z), digits, ".", "_" and "-", as "hospital-a"'
        )
    if twins := equal_names(names):
        problems.append(
            f"sites differ by no more than case and underscores ({listed(twins, 5)}): write each in one way"
        )
    return problems


def path_problems(table: Rows, root: Path) -> list[str]:
    """List paths that lead out of the root by "..", and those at which there is no file."""
    problems = []
    outside = [row for row in table.rows if row.path and _leaves(row.path)]
    if outside:
        shown = listed([clean(row.path, 100) for row in outside])
        problems.append(
            f"{len(outside):,} relative paths lead out of {root} ({shown}; {table.where(outside)}): relative paths lie "
            "below that folder; set image-root to one that holds all images, or write absolute paths"
        )
    missing = [row for row in table.rows if row.path and not _leaves(row.path) and not is_there(root / row.path)]
    if missing:
        shown = listed([f"{clean(row.path, 100)} ({table.where([row])})" for row in missing], 5)
        problems.append(
            f"{len(missing):,} of {len(table.rows):,} files do not exist: {shown}: relative paths begin at {root}; set "
            "image-root to another folder, or correct them"
        )
    return problems


def repeat_problems(table: Rows, root: Path) -> list[str]:
    """List images that stand in the table more than once, by what their rows differ in."""
    by_file: dict[str, list[Row]] = {}
    for row in table.rows:
        if row.path:
            by_file.setdefault(os.path.normpath(root / row.path), []).append(row)
    kinds: dict[str, list[list[Row]]] = {kind: [] for kind in _REPEATS}
    for rows in by_file.values():
        if len(rows) > 1:
            kinds[_difference(rows)].append(rows)
    problems = []
    for kind, held in kinds.items():
        if held:
            shown = listed([f"{clean(rows[0].path, 100)} ({table.where(rows)})" for rows in held], 5)
            problems.append(f"{len(held):,} images {kind}: {shown}: {_REPEATS[kind]}")
    return problems


def _difference(rows: Sequence[Row]) -> str:
    """Tell what is worst about an image that has several rows, as a key of ``_REPEATS``."""
    label, split, site, again = _REPEATS
    if len({plain_name(row.label) for row in rows}) > 1:
        return label
    if len({split_of(row.split) for row in rows}) > 1:
        return split
    return site if len({row.site for row in rows}) > 1 else again


def settle_classes(
    labels: Iterable[str], given: Sequence[str], key: str
) -> tuple[tuple[str, ...], dict[str, int], str]:
    """Settle class names, and which class a label means.

    Parameters
    ----------
    labels : iterable of str
        All that are in the table, none empty.
    given : sequence of str
        The class names that settings give; labels are these, or their places from 0. None: the labels are the names,
        in alphabetical order, or by size where all are whole numbers.
    key : str
        The file, for errors.

    Returns
    -------
    (tuple of str, dict of str to int, str)
        Class names, the class of each label as it is written, and what is to be said of them.

    Raises
    ------
    DataError
        When labels are no classes of those that are given, or names cannot be told apart.
    """
    written = sorted(set(labels))
    numbers = bool(written) and all(map(is_number, written))
    if given:
        places = {plain_name(name): place for place, name in enumerate(given)}
        if all(plain_name(label) in places for label in written):
            return tuple(given), {label: places[plain_name(label)] for label in written}, ""
        if numbers and all(0 <= int(label) < len(given) for label in written):
            return tuple(given), {label: int(label) for label in written}, ""
        unknown = [clean(label, 60) for label in written if plain_name(label) not in places]
        allowed = f"{listed(list(given), 10)}" + (f", or 0 to {len(given) - 1}" if numbers else "")
        raise DataError(f"labels are no class of `classes`: {listed(unknown, 10)}; it names {allowed}")
    if numbers:
        values = sorted({int(label) for label in written})
        names, place = tuple(map(str, values)), {value: number for number, value in enumerate(values)}
        note = (
            f"labels are numbers ({listed(names, 4)}), which tell CLIP nothing: name the classes with "
            'classes = "first, second, ..."'
        )
        return names, {label: place[int(label)] for label in written}, note
    # As the same word is the same class, however its accents are composed.
    names = usable_names(sorted({composed(label) for label in written}), key)
    places = {name: place for place, name in enumerate(names)}
    return names, {label: places[composed(label)] for label in written}, ""


def _leaves(path: str) -> bool:
    return not Path(path).is_absolute() and Path(os.path.normpath(path)).parts[:1] == (os.pardir,)


def is_there(path: Path) -> bool:
    """Tell whether there is a file; what could be the name of none is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a folder that is closed, a zero byte
        return False
