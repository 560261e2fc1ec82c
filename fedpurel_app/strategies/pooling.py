"""Means of what the sites measured while training."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from flwr.app import MetricRecord

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
