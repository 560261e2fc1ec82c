"""Pool what the sites sent: means of their training metrics, and exact scores from their counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from flwr.app import MetricRecord

from fedpurel_app.metrics import ClassCounts, pool, summarize
from fedpurel_app.strategies.scores import SiteScores
from fedpurel_app.strategies.screening import is_number


def shared_numbers(metrics: Iterable[MetricRecord]) -> list[str]:
    """Name the metrics that every reply has as a number that can be averaged, sorted."""
    records = list(metrics)
    names = set.intersection(*(set(record) for record in records)) if records else set()
    return sorted(name for name in names if all(is_number(record[name]) for record in records))


def weighted_means(metrics: list[MetricRecord], key: str) -> dict[str, float]:
    """Average metrics over the replies that have them, weighted by their numbers of examples, in the given order.

    A metric that fewer than half of the replies have as a number is left out: one site can neither add nor remove one.
    """
    known: dict[str, list[MetricRecord]] = {}
    for record in metrics:
        for name in record:
            if name != key and is_number(record[name]):
                known.setdefault(name, []).append(record)
    return {
        name: _weighted_mean(records, name, key)
        for name, records in sorted(known.items())
        if 2 * len(records) >= len(metrics)
    }


def _weighted_mean(records: list[MetricRecord], name: str, key: str) -> float:
    weights = np.array([float(record[key]) for record in records])  # type: ignore[arg-type]
    return math.fsum(weights / weights.sum() * [float(record[name]) for record in records])  # type: ignore[arg-type]


def pool_sites(
    scores: Mapping[str, SiteScores],
    groups: Mapping[str, npt.NDArray[np.int64]] | None,
    power: float,
    sigma: float,
    classes: int | None = None,
) -> dict[str, dict[str, float | None] | None]:
    """Pool the scores of all sites on their own test parts.

    Parameters
    ----------
    scores : mapping of str to SiteScores
    groups : mapping of str to ndarray of int64, or None
        Class indices of "many", "medium", "few".
    power, sigma : float
        Of Balancedness.
    classes : int, optional
        Number of classes; groups and Balancedness are None when most sites sent totals instead of class counts.

    Returns
    -------
    dict
        For "zero_shot", "global" and "personalized": ``all`` = mean over the sites of their accuracies, ``sd`` over
        the sites, ``pooled`` = accuracy over all test images, and ``many``, ``medium``, ``few``, ``balancedness`` from
        the pooled class counts; in percent. Where some of the sites did not score a model, ``sites`` = how many did;
        where some sent totals, ``sites_by_class`` = how many sent class counts. None for a model that fewer than half
        of the sites scored.
    """
    names = {"zero_shot": "zero-shot", "global": "global", "personalized": "personalized"}
    result: dict[str, dict[str, float | None] | None] = {}
    for key, model in names.items():
        counts = [site.personalized if model == "personalized" else site.counts.get(model) for site in scores.values()]
        known = [one for one in counts if one is not None]
        if not known or 2 * len(known) < len(counts):
            result[key] = None
            continue
        accuracies = [100 * one.accuracy for one in known if one.accuracy is not None]
        by_class = class_counts(known, classes)
        over_all = pool(one.over_classes() for one in known) or ClassCounts.zeros(1)
        summary = summarize(pool(by_class) or over_all, groups if by_class else None, power, sigma)
        if not by_class:
            summary["balancedness"] = None
        summary["pooled"] = None if over_all.accuracy is None else 100 * over_all.accuracy
        summary["all"] = float(np.mean(accuracies)) if accuracies else None
        summary["sd"] = float(np.std(accuracies)) if accuracies else None
        if len(known) < len(counts):
            summary["sites"] = len(known)
        if by_class and len(by_class) < len(known):
            summary["sites_by_class"] = len(by_class)
        result[key] = summary
    return result


def class_counts(counts: Sequence[ClassCounts], classes: int | None) -> list[ClassCounts]:
    """Return those counts that are by class; none where most sites sent totals, whose classes nobody knows."""
    by_class = [one for one in counts if classes is not None and len(one.total) == classes]
    return by_class if 2 * len(by_class) >= len(counts) else []
