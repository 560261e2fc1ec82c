"""The tables of the last evaluation: ``sites.csv``, ``classes.csv`` and ``calibration.csv``; numbers in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.calibration import BINS, UNIT, Bins
from fedpurel_app.core.details import Details, detail_scores, pooled_bins
from fedpurel_app.core.intervals import paired_difference, wilson
from fedpurel_app.core.metrics import GROUPS, ClassCounts, pool
from fedpurel_app.core.site_scores import SiteScores, class_counts, scored_by

_OURS = ("global", "personalized")
_ENDS = ("low", "high")
_INTERVALS = ("global", "personalized", "gain", "global_gain")
SITE_COLUMNS = [
    *("site", "test_images", "zero_shot", "global", "personalized", "gain", "has_private_branch", "global_gain"),
    *(f"{name}_{end}" for name in _INTERVALS for end in _ENDS),
    *("global_ece", "personalized_ece", "global_nll", "personalized_nll"),
]
VALIDATION_COLUMNS = ["site", "validation_images", *SITE_COLUMNS[2:]]
CLASS_COLUMNS = ["label", "name", "group", "train_images", "zero_shot", "global", "personalized_at_sites"]
CALIBRATION_COLUMNS = ["model", "group", "confidence_from", "confidence_to", "images", "correct", "mean_confidence"]


def site_rows(scores: Mapping[str, SiteScores]) -> list[list[Any]]:
    """Make one row per site; a cell is empty where a site has no number.

    Without a private branch, the personalized model is the global one: its gain is 0 and has no interval.
    """
    rows = []
    for site, one in sorted(scores.items()):
        models = (one.counts.get("zero-shot"), one.counts["global"], one.personalized)
        zero_shot, ours, personal = (np.nan if c is None or c.accuracy is None else c.accuracy for c in models)
        cells = [_percent(value) for value in (zero_shot, ours, personal, personal - ours)]
        images = int(one.counts["global"].total.sum())
        ends = [*(wilson(int(counts.correct.sum()), images) for counts in models[1:] if counts is not None)]
        ends += [paired_difference(*told) if (told := one.gain(name)) else None for name in ("personalized", "global")]
        intervals = [_percent(end) for pair in ends for end in (pair or (np.nan, np.nan))]
        details = [detail_scores([pair] if (pair := one.scored(name)) else [], None) for name in _OURS]
        rest = [_plain(one[name]) for name in ("ece", "nll") for one in details]
        flag = int(one.has_private_branch)
        rows.append([site, images, *cells, flag, _percent(ours - zero_shot), *intervals, *rest])
    return rows


def class_rows(
    names: Sequence[str],
    train_counts: npt.NDArray[np.int64] | None,
    groups: Mapping[str, npt.NDArray[np.int64]] | None,
    at_server: tuple[ClassCounts | None, ClassCounts | None],
    scores: Mapping[str, SiteScores],
) -> list[list[Any]]:
    """Make one row per class.

    Parameters
    ----------
    names : sequence of str
    train_counts : ndarray of int, shape (C,), or None
    groups : mapping of str to ndarray of int, or None
        Classes of "many", "medium" and "few". None for both where the sites keep their counts to themselves.
    at_server : (ClassCounts or None, ClassCounts or None)
        Zero-shot and global model on the balanced test set; None for what the server cannot score.
    scores : mapping of str to SiteScores
        Personalized models are pooled over the sites that sent class counts, where most did.
    """
    unknown = np.full(len(names), np.nan)
    columns = [unknown if counts is None else counts.per_class for counts in at_server]
    pooled = pool(class_counts([one.personalized for one in scores.values()], len(names)))
    columns.append(unknown if pooled is None else pooled.per_class)
    group = {int(label): name for name, members in (groups or {}).items() for label in members}
    counts = [""] * len(names) if train_counts is None else [int(count) for count in train_counts]
    return [
        [label, name, group.get(label, ""), counts[label], *(_percent(column[label]) for column in columns)]
        for label, name in enumerate(names)
    ]


def evaluation_tables(
    scores: Mapping[str, SiteScores],
    classes: list[list[Any]],
    at_server: Mapping[str, Sequence[tuple[ClassCounts, Details | None]]] | None = None,
) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """Make the tables of an evaluation: columns and rows, by the name of the run folder's file.

    Parameters
    ----------
    scores : mapping of str to SiteScores
        By site.
    classes : list of list
        What :func:`class_rows` made.
    at_server : mapping of str to sequence of (ClassCounts, Details or None), optional
        What a server scored on images of its own, by model.
    """
    at_sites = {"global_at_sites": "global", "personalized": "personalized"}
    scored = {name: scored_by(scores.values(), model) for name, model in at_sites.items()}
    return {
        "sites.csv": (SITE_COLUMNS, site_rows(scores)),
        "classes.csv": (CLASS_COLUMNS, classes),
        "calibration.csv": (CALIBRATION_COLUMNS, calibration_rows({**(at_server or {}), **scored})),
    }


def calibration_rows(scored: Mapping[str, Sequence[tuple[ClassCounts, Details | None]]]) -> list[list[Any]]:
    """Make one row for each bin of confidence that holds images, of all of a model's and of those of each group.

    Parameters
    ----------
    scored : mapping of str to sequence of (ClassCounts, Details or None)
        By model: what it scored on each set of images. A model of whose sets most keep confidences has no row.
    """
    rows: list[list[Any]] = []
    for model, sets in scored.items():
        for group, bins in _by_group(sets).items():
            for place in np.flatnonzero(bins.total[0]):
                images, correct, sums = (int(one[0, place]) for one in (bins.total, bins.correct, bins.confidence))
                edges = (f"{100 * edge / BINS:.4f}" for edge in (place, place + 1))
                rows.append([model, group, *edges, images, correct, f"{100 * sums / UNIT / images:.4f}"])
    return rows


def _by_group(sets: Sequence[tuple[ClassCounts, Details | None]]) -> dict[str, Bins]:
    """Return the bins of all images of a model, and of each group of classes, as far as they are known."""
    whole, apart = pooled_bins(sets), pooled_bins(sets, by_group=True)
    found = {} if whole is None else {"all": whole}
    return found if apart is None else found | {name: apart.rows(place) for place, name in enumerate(GROUPS)}


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.4f}"
