"""What is there of a data set, class by class and site by site, and everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.metrics import group_by_counts, group_by_terciles
from fedpurel_app.core.names import plain_name
from fedpurel_app.data.sources.detect import KINDS, Kind, kind_of
from fedpurel_app.data.sources.feature_file import load_features
from fedpurel_app.data.sources.folders import FileSplit, load_imagefolder
from fedpurel_app.data.sources.inspection import Lookable, Report, refuse_faults
from fedpurel_app.data.sources.listing import find_parts, folders_in, list_images
from fedpurel_app.data.sources.manifest import read_manifest
from fedpurel_app.data.sources.manifest_rows import Form, read_rows
from fedpurel_app.data.sources.manifest_rules import SPLITS, is_there
from fedpurel_app.data.sources.opening import form_of
from fedpurel_app.data.sources.own import load_own
from fedpurel_app.data.sources.repeats import repeated
from fedpurel_app.data.sources.source import Ints, Source, Split

_SAMPLE = 200  # images whose mode and size are looked at


@dataclass
class Survey:
    """What was found.

    Attributes
    ----------
    kind : str
        A key of :data:`~fedpurel_app.data.sources.detect.KINDS`.
    names : list of str
        Of the classes.
    counts : dict of str to dict of str to ndarray of int64, shape (C,)
        Images of every class by split, by site; the only site is "" where there are none.
    parts : list of (str, str, Split, ndarray)
        Site, split, the images that can be looked at, and their classes.
    notes, problems : list of str
    """

    kind: Kind
    names: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, Ints]] = field(default_factory=dict)
    parts: list[tuple[str, str, Split, Ints]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, site: str, split: str, labels: Ints, images: Split | None = None, of: Ints | None = None) -> None:
        """Count images, by classes from 0, and keep those that can be looked at, ``of`` which classes they are."""
        at_site = self.counts.setdefault(site, {})
        before = at_site.get(split, np.zeros(0, np.int64))
        size = max(len(self.names), len(before))
        at_site[split] = np.bincount(labels, minlength=size) + np.pad(before, (0, size - len(before)))
        if images is not None and len(images.labels):
            self.parts.append((site, split, images, labels if of is None else of))

    def label(self, name: str) -> int:
        """Return the number of a class, which is made where there is none of that name."""
        known = [plain_name(one) for one in self.names]
        if plain_name(name) in known:
            return known.index(plain_name(name))
        self.names.append(name)
        return len(self.names) - 1


def survey(path: Path, form: Form, report: Report | None = None) -> Survey:
    """Look at a data set.

    Parameters
    ----------
    path : Path
    form : Form
        How a table is to be read, and which classes there should be.
    report : callable, optional
        Told how many images were looked at.

    Returns
    -------
    Survey

    Raises
    ------
    DataError
        When there is no data set at all.
    """
    found = Survey(kind_of(path))
    if found.kind == "manifest":
        _read_table(found, path, form)
    else:
        _read_sources(found, path, form)
    _look(found, report)
    return found


def _read_table(found: Survey, path: Path, form: Form) -> None:
    has_sites = "site" in read_rows(path, replace(form, natural=False), "PATH").columns
    table = read_manifest(path, replace(form, natural=has_sites))
    found.names, found.notes, found.problems = list(table.names), list(table.notes), list(table.problems)
    held: dict[tuple[str, str], list[int]] = {}
    for number, (row, split) in enumerate(zip(table.rows, table.splits, strict=True)):
        held.setdefault((row.site, split), []).append(number)
    for site in sorted({site for site, _ in held}) or [""]:
        for split in SPLITS:
            rows = np.array(held.get((site, split), []), np.int64)
            there = np.array([row for row in rows if is_there(table.root / table.rows[row].path)], np.int64)
            files = FileSplit(table.root, tuple(table.rows[row].path for row in there), table.labels[there])
            found.add(site, split, table.labels[rows], files, table.labels[there])


def _read_sources(found: Survey, path: Path, form: Form) -> None:
    """Read what is no table by its own loader, and count files in folders where that refuses them."""
    places = {name: path / name for name in folders_in(path)} if found.kind == "sites" else {"": path}
    for site, place in places.items():
        said = f"{site}: " if site else ""
        try:
            source = _load(found.kind, str(place), form)
        except DataError as error:
            lines = [line.strip(" -") for line in str(error).splitlines()]
            found.problems += [said + line for line in lines if not line.endswith("problem(s):")]
            _count_files(found, site, place)
            continue
        found.notes += [said + note for note in source.notes]
        if found.kind not in ("imagefolder", "features") and not _has_test(place):
            found.notes.append(f"{said}there is no test part: a fifth of every class is held out, by the run's seed")
        renamed = np.array([found.label(name) for name in source.class_names], np.int64)
        for split, images in (("train", source.train), ("test", source.test)):
            found.add(site, split, renamed[images.labels], images)
    for at_site in found.counts.values():
        for split, counts in at_site.items():
            at_site[split] = np.pad(counts, (0, len(found.names) - len(counts)))


def _load(kind: Kind, place: str, form: Form) -> Source:
    if kind == "imagefolder":
        return load_imagefolder(place, 0)
    return load_features(place, 0) if kind == "features" else load_own(place, form.classes, form.seed, form)


def _has_test(place: Path) -> bool:
    """Tell whether a site's own data have a test part."""
    if place.suffix == ".npz":
        with np.load(place, allow_pickle=False) as file:
            return "test_features" in file.files
    if place.is_file():
        return False
    files = [file.name for file in place.rglob("*.parquet")]
    return "test" in find_parts(folders_in(place), str(place))[0] or any(name.startswith("test") for name in files)


def _count_files(found: Survey, site: str, place: Path) -> None:
    """Count files of images by the names of folders, without opening any."""
    if not place.is_dir():
        return
    parts = find_parts(folders_in(place), str(place))[0] or {"train": ""}
    for split, folder in parts.items():
        for name, files in list_images(place / folder).files.items():
            found.add(site, split, np.full(len(files), found.label(name)))


def _look(found: Survey, report: Report | None) -> None:
    """Look at the headers of all images, and for images that are there twice."""
    images = [(site, split, one, labels) for site, split, one, labels in found.parts if isinstance(one, Lookable)]
    total = sum(len(labels) for *_, labels in images)
    wholes = {one.state: one for *_, one, _ in images}  # a site's training and test rows may be of one split
    try:
        # What a split of held-out rows looks at is the whole of it.
        refuse_faults((fault for one in wholes.values() for fault in one.faults()), total, report)
    except DataError as error:
        found.problems += [line for line in str(error).splitlines() if line]
    found.problems += repeated(images, found.names)


def summary(found: Survey, group_by: str) -> dict[str, Any]:
    """Return what was found in JSON's types.

    Parameters
    ----------
    found : Survey
    group_by : {"auto", "counts", "terciles"}
        How classes become Many, Medium and Few.
    """
    how = group_by if group_by != "auto" else "terciles" if found.kind == "features" else "counts"
    total = {split: _sum([at.get(split) for at in found.counts.values()], len(found.names)) for split in SPLITS}
    train = total["train"]
    groups = (group_by_counts if how == "counts" else group_by_terciles)(train)
    held = train[train > 0]
    return {
        "kind": found.kind,
        "what": KINDS[found.kind],
        "classes": {
            name: {
                **{split: int(total[split][label]) for split in SPLITS},
                "group": next(group for group, members in groups.items() if label in members),
                "sites": {site: int(at["train"][label]) for site, at in found.counts.items() if site and "train" in at},
            }
            for label, name in enumerate(found.names)
        },
        "sites": {
            site: {split: int(at[split].sum()) if split in at else 0 for split in SPLITS}
            | {"classes": int((_sum(list(at.values()), len(found.names)) > 0).sum())}
            for site, at in found.counts.items()
            if site
        },
        "images": {split: int(total[split].sum()) for split in SPLITS},
        "groups": {"by": how, **{group: len(members) for group, members in groups.items()}},
        "imbalance-factor": round(float(held.max() / held.min()), 2) if len(held) else None,
        "smallest-class": {"name": found.names[int(train.argmin())], "train": int(train.min())} if len(train) else None,
        "sample": _sample(found),
        "notes": found.notes,
        "problems": found.problems,
    }


def _sum(counts: Sequence[Ints | None], classes: int) -> Ints:
    return sum((one for one in counts if one is not None), np.zeros(classes, np.int64))


def _sample(found: Survey) -> dict[str, Any] | None:
    """Look at modes and sizes of some images, evenly from all."""
    places = [(one, row) for *_, one, labels in found.parts if isinstance(one, Lookable) for row in range(len(labels))]
    chosen = places[:: max(1, len(places) // _SAMPLE)][:_SAMPLE]
    forms = [form for one, row in chosen for form in map(form_of, one.encoded(np.array([row]))) if form]
    if not forms:
        return None
    modes = Counter(mode for mode, _, _ in forms)
    edges = {"width": [width for _, width, _ in forms], "height": [height for _, _, height in forms]}
    spans = {edge: [min(values), int(median(values)), max(values)] for edge, values in edges.items()}
    return {"images": len(forms), "modes": dict(modes.most_common()), **spans}
