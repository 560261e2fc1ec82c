"""Screen replies one by one, and pool what is left. A bad reply costs its site the round, never the run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fedpurel_app.metrics import ClassCounts, pool, summarize
from fedpurel_app.records import ARRAYS, METRICS, counts_from_metrics, to_arrays

MOST_EXAMPLES = 100_000_000
_ROOM = 4096  # bytes a serialised array may be longer than its values


class BadReplyError(ValueError):
    """A reply that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class SiteScores:
    """What a site scored on its own test part.

    Attributes
    ----------
    counts : dict of str to ClassCounts
        For "zero-shot", "global" and, where the site has a private branch, "personalized".
    has_private_branch : bool
        False: the site never trained one, and its personalized model is the global one.
    """

    counts: dict[str, ClassCounts]
    has_private_branch: bool

    @property
    def personalized(self) -> ClassCounts:
        """Counts of the personalized model."""
        return self.counts["personalized"] if self.has_private_branch else self.counts["global"]


def check_arrays(content: RecordDict, sent: ArrayRecord) -> None:
    """Raise BadReplyError unless a reply carries exactly the arrays that were sent, finite and of the same form."""
    if len(content.array_records) != 1:
        raise BadReplyError(f"expected one ArrayRecord, got {len(content.array_records)}")
    record = next(iter(content.array_records.values()))
    if set(record) != set(sent):
        odd = sorted(set(record) ^ set(sent))
        raise BadReplyError(f"array names differ: {odd[:4]}{' ...' if len(odd) > 4 else ''}")
    for name, array in record.items():
        if (array.dtype, tuple(array.shape)) != (sent[name].dtype, tuple(sent[name].shape)):
            raise BadReplyError(
                f"{name}: {array.dtype}{tuple(array.shape)}, expected {sent[name].dtype}{sent[name].shape}"
            )
        if len(array.data) > len(sent[name].data) + _ROOM:
            raise BadReplyError(f"{name}: {len(array.data)} bytes, expected {len(sent[name].data)}")
    try:
        arrays = to_arrays(record)
    except Exception as error:  # whatever a site sent, the run goes on
        raise BadReplyError(f"arrays cannot be decoded ({type(error).__name__})") from error
    infinite = sorted(name for name, value in arrays.items() if not np.isfinite(value).all())
    if infinite:
        raise BadReplyError(f"NaN or Inf in {infinite[:4]}")


def check_metrics(content: RecordDict, key: str, described: int | None) -> MetricRecord:
    """Give a reply's metrics; raises BadReplyError when its number of examples is missing or not credible."""
    if len(content.metric_records) != 1:
        raise BadReplyError(f"expected one MetricRecord, got {len(content.metric_records)}")
    metrics = next(iter(content.metric_records.values()))
    number = metrics.get(key)
    if not isinstance(number, int | float) or not math.isfinite(number):
        raise BadReplyError(f"{key} = {number}: expected a number")
    if not 0 < number <= MOST_EXAMPLES:
        raise BadReplyError(f"{key} = {number}: expected 1 to {MOST_EXAMPLES}")
    if described is not None and number > 2 * described:
        raise BadReplyError(f"{key} = {number}, but the site described itself with {described}")
    return metrics


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
    total = math.fsum(float(record[key]) for record in metrics)  # type: ignore[arg-type]
    return {
        name: math.fsum(float(record[name]) * float(record[key]) for record in metrics) / total  # type: ignore[arg-type]
        for name in shared_numbers(metrics)
        if name != key
    }


def uniform(message: Message, metric_names: list[str]) -> Message:
    """Cut a reply down to its arrays, other records, and the metrics that all replies share.

    Flower's strategies refuse a whole round when one reply has a metric more than another.
    """
    records: dict[str, Any] = {
        name: record for name, record in message.content.items() if not isinstance(record, ArrayRecord | MetricRecord)
    }
    metrics = next(iter(message.content.metric_records.values()))
    records[ARRAYS] = next(iter(message.content.array_records.values()))
    records[METRICS] = MetricRecord({name: metrics[name] for name in metric_names})
    message.content = RecordDict(records)
    return message


def check_scores(metrics: MetricRecord) -> SiteScores:
    """Give a site's scores; raises BadReplyError when they are impossible."""
    try:
        found = {model: counts_from_metrics(model, metrics) for model in ("zero-shot", "global", "personalized")}
    except (ValueError, TypeError) as error:
        raise BadReplyError(f"impossible class counts: {error}") from error
    counts = {model: one for model, one in found.items() if one is not None}
    if "global" not in counts:
        raise BadReplyError("no score of the global model")
    return SiteScores(counts, "personalized" in counts)


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
        pooled = pool(known if by_class else (_totals(one) for one in known)) or ClassCounts.zeros(1)
        summary = summarize(pooled, groups if by_class else None, power, sigma)
        if not by_class:
            summary["balancedness"] = None
        summary["pooled"] = summary["all"]
        summary["all"] = float(np.mean(accuracies)) if accuracies else None
        summary["sd"] = float(np.std(accuracies)) if accuracies else None
        result[key] = summary
    return result


def _totals(counts: ClassCounts) -> ClassCounts:
    return ClassCounts(counts.correct.sum(keepdims=True), counts.total.sum(keepdims=True))
