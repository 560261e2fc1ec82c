"""One screen for every number and text that comes from a site. A bad reply costs its site the round, never the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict

from fedpurel_app.core.detail_records import BOTH_RIGHT, both_right_from_metrics, details_from_metrics
from fedpurel_app.core.fronts import front_from_metrics
from fedpurel_app.core.metrics import ClassCounts
from fedpurel_app.core.names import clean
from fedpurel_app.core.records import (
    FEATURE_SECONDS,
    MODELS,
    MOST_EXAMPLES,
    RESTARTED,
    SECONDS,
    WITHHELD,
    WORKER,
    counts_from_metrics,
    to_arrays,
)
from fedpurel_app.core.site_scores import BEFORE, SiteScores

_ROOM = 4096  # bytes a serialised array may be longer than its values
_MOST_BESIDE_ARRAYS = 8 * 2**20  # bytes of a reply's other records: counts of many thousand classes, with room
_LONGEST_NAME = 100  # characters of a metric's name
_LARGEST = 1e300  # of a metric: sums of larger ones overflow
_MOST_SECONDS = 1e8  # three years
_LONGEST_REASON = 100_000  # characters of an error's text that are looked at,
_MOST_SHOWN = 1000  # and that are kept


class BadReplyError(ValueError):
    """A reply that cannot be used; the message is the reason, one printable line."""

    def __init__(self, reason: str) -> None:
        super().__init__(clean(reason))


def check_size(content: RecordDict) -> None:
    """Raise BadReplyError when a reply carries more beside its arrays than any client has to say."""
    beside = sum(record.count_bytes() for record in content.values() if not isinstance(record, ArrayRecord))
    if beside > _MOST_BESIDE_ARRAYS:
        raise BadReplyError(f"{beside} bytes beside its arrays, expected at most {_MOST_BESIDE_ARRAYS}")


def check_arrays(content: RecordDict, sent: ArrayRecord) -> None:
    """Raise BadReplyError unless a reply carries exactly the arrays that were sent, finite and of the same form."""
    if len(content.array_records) != 1:
        raise BadReplyError(f"expected one ArrayRecord, got {len(content.array_records)}")
    record = next(iter(content.array_records.values()))
    if set(record) != set(sent):
        odd = sorted(set(record) ^ set(sent))
        raise BadReplyError(
            f"array names differ: {[clean(name, 60) for name in odd[:4]]}{' ...' if len(odd) > 4 else ''}"
        )
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
    """Return a reply's metrics.

    Parameters
    ----------
    content : RecordDict
    key : str
        Metric with the number of examples.
    described : int or None
        Number of examples that the site described itself with.

    Raises
    ------
    BadReplyError
        When the number of examples is missing or not credible, a number of the books is none, or a name is no printable
        text.
    """
    metrics = the_metrics(content)
    number = metrics.get(key)
    if not is_number(number):
        raise BadReplyError(f"{key} = {number!r}: expected a number")
    if not 0 < number <= MOST_EXAMPLES:
        raise BadReplyError(f"{key} = {number}: expected 1 to {MOST_EXAMPLES}")
    if described is not None and number > 2 * described:
        raise BadReplyError(f"{key} = {number}, but the site described itself with {described}")
    _check_books(metrics)
    return metrics


def check_lists(metrics: MetricRecord, lengths: Mapping[str, int]) -> dict[str, list[float]]:
    """Return those lists of numbers, by name and length, that a reply has; raise BadReplyError for one that is none."""
    found: dict[str, list[float]] = {}
    for name, length in lengths.items():
        values = metrics.get(name)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != length or not all(map(is_number, values)):
            raise BadReplyError(f"{name}: expected a list of {length} finite numbers")
        found[name] = [float(value) for value in values]
    return found


def the_metrics(content: RecordDict) -> MetricRecord:
    """Return the one MetricRecord of a reply; raises BadReplyError when there is another number, or an odd name."""
    if len(content.metric_records) != 1:
        raise BadReplyError(f"expected one MetricRecord, got {len(content.metric_records)}")
    metrics = next(iter(content.metric_records.values()))
    for name in metrics:
        if not name or clean(name, _LONGEST_NAME) != name:
            raise BadReplyError(
                f'a metric is called "{clean(name, 60)}": expected up to {_LONGEST_NAME} printable characters'
            )
    return metrics


def is_number(value: Any) -> TypeGuard[int | float]:
    """Tell whether something is a finite number that can be averaged."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def withholds(content: RecordDict) -> bool:
    """Tell whether a reply to ``evaluate`` says that its site's own settings keep the scores."""
    return the_metrics(content).get(WITHHELD) == 1


def check_scores(metrics: MetricRecord, key: str, num_classes: int = 0, described: int = 0) -> SiteScores:
    """Return a site's scores.

    Parameters
    ----------
    metrics : MetricRecord
    key : str
        Metric with the number of examples, which the totals of all models must add up to.
    num_classes : int
        Length that lists by class must have; 0 = any.
    described : int
        Number of test images that the site described itself with; 0 = not told.

    Raises
    ------
    BadReplyError
        When they are impossible, or do not fit each other.
    """
    try:
        found = {model: counts_from_metrics(model, metrics) for model in MODELS}
    except (ValueError, TypeError) as error:
        raise BadReplyError(f"impossible class counts: {error}") from error
    counts = {model: one for model, one in found.items() if one is not None}
    if "global" not in counts:
        raise BadReplyError("no score of the global model")
    totals = counts["global"].total
    lengths = {len(one.total) for one in counts.values()}
    if len(lengths) > 1 or (num_classes and not lengths <= {1, num_classes}):
        raise BadReplyError(f"counts of {sorted(lengths)} classes, expected {num_classes or 'as many for each model'}")
    if not all(np.array_equal(one.total, totals) for one in counts.values()):
        raise BadReplyError("its models were scored on different numbers of images")
    number = sum(totals.tolist())
    if number > MOST_EXAMPLES:
        raise BadReplyError(f"{number} scored images: expected at most {MOST_EXAMPLES}")
    if number != metrics.get(key):
        raise BadReplyError(f"{number} scored images, but {key} = {metrics.get(key)}")
    if described and number > 2 * described:
        raise BadReplyError(f"{number} scored images, but the site described itself with {described}")
    return _with_details(counts, metrics)


def _with_details(counts: dict[str, ClassCounts], metrics: MetricRecord) -> SiteScores:
    """Read what a site told beside counts; raises BadReplyError for what cannot belong to them."""
    try:
        details = {model: details_from_metrics(model, metrics) for model in MODELS}
        both = {model: both_right_from_metrics(model, metrics) for model in BOTH_RIGHT}
        if odd := [model for model, one in details.items() if one and model not in counts]:
            raise ValueError(f"numbers of {', '.join(odd)} without counts")
        if odd := [
            model for model, one in both.items() if one is not None and not {model, BEFORE[model]} <= set(counts)
        ]:
            raise ValueError(f"{', '.join(odd)}: right with a model that has no counts")
        found = SiteScores(
            counts,
            "personalized" in counts,
            {model: one for model, one in details.items() if one},
            {model: one for model, one in both.items() if one is not None},
            front_from_metrics(metrics, counts["global"].total) if "personalized" in counts else None,
        )
        found.require()
    except ValueError as error:
        raise BadReplyError(f"impossible scores: {error}") from error
    return found


def _check_books(metrics: MetricRecord) -> None:
    """Raise BadReplyError for numbers of the books that are none: they are added up, and say which process worked."""
    for name in (SECONDS, FEATURE_SECONDS):
        value = metrics.get(name, 0.0)
        if not is_number(value) or not 0 <= value <= _MOST_SECONDS:
            raise BadReplyError(f"{name} = {value!r}: expected a number from 0 to {_MOST_SECONDS:g}")
    worker = metrics.get(WORKER, 0)
    if not isinstance(worker, int) or worker < 0:
        raise BadReplyError(f"{WORKER} = {worker!r}: expected a whole number")
    if metrics.get(RESTARTED, 0) not in (0, 1):
        raise BadReplyError(f"{RESTARTED} = {metrics.get(RESTARTED)!r}: expected 0 or 1")


def last_line(reason: str | None) -> str:
    r"""Cut the reason of an error message to its last line, less what Flower and Ray wrap around it: whole tracebacks.

    >>> last_line("RayTaskError:<'Traceback ...\nException ClientAppException occurred. Message: ValueError: no data'>")
    'ValueError: no data'
    """
    # The last line alone counts, and a site may send a megabyte.
    lines = [line.strip() for line in (reason or "")[-_LONGEST_REASON:].splitlines() if line.strip()]
    last = lines[-1].rpartition("occurred. Message: ")[2] if lines else ""
    return clean(last.removesuffix("'>"), _MOST_SHOWN) or "error"
