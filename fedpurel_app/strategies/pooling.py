"""Pool what the sites sent: means of their training metrics, and exact scores from their counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from flwr.app import MetricRecord

from fedpurel_app.metrics import ClassCounts, pool, summarize
from fedpurel_app.strategies.replies import SiteScores


def shared_numbers(metrics: Iterable[MetricRecord]) -> list[str]:
    """Name the metrics that every reply has as a finite number, sorted."""
    records = list(metrics)
    names = set.intersection(*(set(record) for record in records)) if records else set()
    return sorted(
        name
        for name in names
        if all(isinstance(record[name], int | float) and math.isfinite(record[name]) for record in records)  # type: ignore[arg-type]
    )


def weighted_means(metrics: list[MetricRecord], key: str) -> dict[str, float]:
    """Average the metrics that all replies share, weighted by their numbers of examples, in the given order."""
    weights = np.array([float(record[key]) for record in metrics])  # type: ignore[arg-type]
    means = {
        name: math.fsum(weights / weights.sum() * [float(record[name]) for record in metrics])  # type: ignore[arg-type]
        for name in shared_numbers(metrics)
        if name != key
    }
    return {name: value for name, value in means.items() if math.isfinite(value)}


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
        Number of classes; groups and Balancedness are None when a site sent totals instead of class counts.

    Returns
    -------
    dict
        For "zero_shot", "global" and "personalized": ``all`` = mean over the sites of their accuracies, ``sd`` over
        the sites, ``pooled`` = accuracy over all test images, and ``many``, ``medium``, ``few``, ``balancedness`` from
        the pooled class counts; in percent. None for a model that not every site scored.
    """
    names = {"zero_shot": "zero-shot", "global": "global", "personalized": "personalized"}
    result: dict[str, dict[str, float | None] | None] = {}
    for key, model in names.items():
        counts = [site.personalized if model == "personalized" else site.counts.get(model) for site in scores.values()]
        if not counts or any(one is None for one in counts):
            result[key] = None
            continue
        known = [one for one in counts if one is not None]
        accuracies = [100 * one.accuracy for one in known if one.accuracy is not None]
        by_class = classes is not None and all(len(one.total) == classes for one in known)
        pooled = pool(known if by_class else (one.over_classes() for one in known)) or ClassCounts.zeros(1)
        summary = summarize(pooled, groups if by_class else None, power, sigma)
        if not by_class:
            summary["balancedness"] = None
        summary["pooled"] = summary["all"]
        summary["all"] = float(np.mean(accuracies)) if accuracies else None
        summary["sd"] = float(np.std(accuracies)) if accuracies else None
        result[key] = summary
    return result
