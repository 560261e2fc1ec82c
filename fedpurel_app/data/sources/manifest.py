"""Images by a table of their paths, labels, splits and sites: of a whole federation, or of one site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import listed, printable, split_names
from fedpurel_app.core.seeding import derive_seed
from fedpurel_app.data.sources.folders import FileSplit
from fedpurel_app.data.sources.manifest_rows import Form, Row, Rows, read_rows
from fedpurel_app.data.sources.manifest_rules import (
    SPLITS,
    cell_problems,
    path_problems,
    repeat_problems,
    settle_classes,
    site_problems,
    split_of,
)
from fedpurel_app.data.sources.source import PLAIN_TEMPLATE, Centres, Ints, Source, Split
from fedpurel_app.data.sources.subsets import TEST_SHARE, hold_out


def form_of(settings: Mapping[str, Any]) -> Form:
    """Return how the settings of a run, by key, have a table read."""
    return Form(
        settings["path-column"],
        settings["label-column"],
        settings["split-column"],
        settings["site-column"],
        settings["image-root"],
        split_names(settings["classes"]),
        derive_seed(settings["seed"], "hold out"),
        settings["partition"] == "natural",
    )


@dataclass(frozen=True)
class Manifest:
    """A table that was read.

    Attributes
    ----------
    rows : tuple of Row
        Those with a path and a label that can be used.
    splits : tuple of str
        Of each row: "train", "validation" or "test".
    labels : ndarray of int64, shape (N,)
    names : tuple of str
        Of the classes.
    sites : tuple of str
        In alphabetical order; none where there is no column of sites.
    root : Path
        What relative paths begin at.
    problems, notes : tuple of str
        What is wrong, and what people should know.
    """

    rows: tuple[Row, ...]
    splits: tuple[str, ...]
    labels: Ints
    names: tuple[str, ...]
    sites: tuple[str, ...]
    root: Path
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def of(self, split: str) -> Ints:
        """Return the numbers of the rows of a split."""
        return np.array([number for number, one in enumerate(self.splits) if one == split], np.int64)

    def files(self, split: str) -> FileSplit:
        """Return a split as images."""
        rows = self.of(split)
        return FileSplit(self.root, tuple(self.rows[row].path for row in rows), self.labels[rows])

    def site_rows(self, split: str) -> Ints:
        """Return for each row of a split the number of its site."""
        place = {name: number for number, name in enumerate(self.sites)}
        return np.array([place[self.rows[row].site] for row in self.of(split)], np.int64)


def read_manifest(path: Path, form: Form, key: str = "dataset-path", site: str | None = None) -> Manifest:
    """Read a table of images, and find out everything that is wrong with it.

    Parameters
    ----------
    path : Path
    form : Form
    key : str
        The setting that names it, for errors.
    site : str, optional
        It is the table of this site: of a column of sites its rows alone are taken (of one without a name all), and
        it may lack classes.

    Raises
    ------
    DataError
        When it cannot be read as a table at all, or has no row of the site; all else is among the problems.
    """
    table = read_rows(path, form, key)
    root = Path(form.root) if form.root else path.absolute().parent
    if site and "site" in table.columns:
        table = _of_site(table, site)
    problems = [*table.problems, *cell_problems(table), *path_problems(table, root), *repeat_problems(table, root)]
    if "site" in table.columns and form.natural:
        problems += site_problems(table)
    has_split = "split" in table.columns
    rows = [row for row in table.rows if row.path and row.label and (split_of(row.split) or not has_split)]
    try:
        names, label_of, note = settle_classes((row.label for row in rows), form.classes, printable(str(path)))
        are_known = True
    except DataError as error:
        problems.append(str(error).removesuffix("."))
        names, note, are_known = tuple(sorted({row.label for row in rows})), "", False
        label_of = {name: label for label, name in enumerate(names)}
    labels = np.array([label_of[row.label] for row in rows], np.int64)
    splits, said = _splits(rows, labels, form, table.columns)
    sites = tuple(sorted({row.site for row in rows})) if "site" in table.columns else ()
    notes = (note, *said) if note else tuple(said)
    found = Manifest(tuple(rows), splits, labels, names, sites, root, (), notes)
    classes = _class_gaps(found) if are_known and site is None else []
    return replace(found, problems=(*problems, *classes, *(_site_gaps(found) if form.natural else [])))


def _of_site(table: Rows, site: str) -> Rows:
    """Keep the rows of one site."""
    rows = [row for row in table.rows if row.site == site]
    if not rows:
        there = listed(sorted({row.site for row in table.rows}), 6)
        raise DataError(
            f'{printable(str(table.file))} has no row of site "{site}" in column "{table.columns["site"]}", but of '
            f"{there}: name the node as the table does, or take that column out of a table that is all its own."
        )
    return replace(table, rows=rows)


def _splits(
    rows: Sequence[Row], labels: Ints, form: Form, columns: Mapping[str, str]
) -> tuple[tuple[str, ...], list[str]]:
    """Tell the split of every row, and what is to be said of it; holds out a test part where none is named."""
    splits = [split_of(row.split) if "split" in columns else "train" for row in rows]
    if "test" in splits:
        return tuple(splits), []
    if "validation" in splits:
        swapped = ("test" if one == "validation" else one for one in splits)
        return tuple(swapped), ["there is no row of split test: those of validation are the test part"]
    by_site: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_site.setdefault(row.site, []).append(number)
    for members in by_site.values():  # so that a site that has its own rows alone holds out the same ones
        held = hold_out(labels[members], [rows[number].path for number in members], form.seed)[1]
        for place in held:
            splits[members[place]] = "test"
    why = f'no column "{form.split}"' if "split" not in columns else "no row of split test"
    share = f"{TEST_SHARE:.0%} of every class{' at every site' if 'site' in columns else ''}"
    return tuple(splits), [f"{why}: {share} is held out to test on, at least one of two images, by the run's seed"]


def _class_gaps(found: Manifest) -> list[str]:
    """List classes that cannot be learnt."""
    there = set(found.labels[found.of("train")].tolist())
    lacking = [name for label, name in enumerate(found.names) if label not in there]
    said = f"{len(lacking)} classes have no training image: {listed(lacking, 6)}: add some, or take them out"
    return [said] if lacking else []


def _site_gaps(found: Manifest) -> list[str]:
    """List sites that cannot take part."""
    problems = []
    for split, what in (("train", "training"), ("test", "test")):
        held = {found.sites[number] for number in found.site_rows(split)}
        if without := [site for site in found.sites if site and site not in held]:
            problems.append(
                f"{len(without)} sites have no {what} image: {listed(without, 6)}: add some, or take their rows out"
            )
    return problems


def load_manifest(path: str, max_per_class: int = 0, form: Form | None = None) -> Source:
    """Load a table of images of a whole federation.

    Parameters
    ----------
    path : str
        A CSV or parquet file.
    max_per_class : int
        Unused: a table is used as it is.
    form : Form, optional
        How to read it.

    Raises
    ------
    DataError
        Naming everything that is wrong with it.
    """
    form = form or Form()
    found = read_manifest(Path(path), form)
    _refuse(found, path)
    train, test = found.files("train"), found.files("test")
    validation = found.files("validation") if len(found.of("validation")) else None
    centres = Centres(found.sites, *(found.site_rows(split) for split in SPLITS)) if found.sites else None
    notes = [*found.notes, *_notes(found, form)]
    return Source("manifest", found.names, PLAIN_TEMPLATE, train, test, validation=validation, centres=centres,
                  notes=tuple(notes))  # fmt: skip


def _notes(found: Manifest, form: Form) -> list[str]:
    notes = []
    if count := len(found.of("validation")):
        notes.append(
            f'{count:,} rows of split validation are not trained on; evaluate-on = "validation" scores on them'
        )
    tested = set(found.labels[found.of("test")].tolist())
    if untested := [name for label, name in enumerate(found.names) if label not in tested]:
        notes.append(f"{len(untested)} classes have no test image, and no accuracy: {listed(untested, 6)}")
    if found.sites and not form.natural:
        notes.append(
            f'column "{form.site}" names {len(found.sites)} sites, and the partition is another: partition = "natural" '
            "deals out by it"
        )
    return notes


def own_manifest(path: Path, form: Form, site: str) -> tuple[Mapping[str, Split], list[str], list[str]]:
    """Read the table of one site: its parts, its class names and what is to be said, as other own data are read.

    Parameters
    ----------
    path : Path
    form : Form
        With the classes of the federation, where they are known.
    site : str
        Its name, by which its rows are chosen where there is a column of sites.

    Raises
    ------
    DataError
        Naming everything that is wrong with it.
    """
    found = read_manifest(path, form, "data", site)
    _refuse(found, str(path))
    return {split: found.files(split) for split in ("train", "test")}, list(found.names), list(found.notes)


def _refuse(found: Manifest, path: str) -> None:
    if found.problems:
        head = f"{printable(path)}: {len(found.problems)} problem(s):"
        raise DataError("\n".join([head, *(f"  - {line}." for line in found.problems)]))
