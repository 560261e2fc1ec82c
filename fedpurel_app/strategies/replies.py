"""Screen replies one by one. A bad reply costs its site the round, never the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fedpurel_app.metrics import ClassCounts
from fedpurel_app.records import ARRAYS, METRICS, MODELS, counts_from_metrics, to_array_record, to_arrays
from fedpurel_app.strategies.roster import Roster

MOST_EXAMPLES = 100_000_000
_ROOM = 4096  # bytes a serialised array may be longer than its values
_MOST_BESIDE_ARRAYS = 8 * 2**20  # bytes of a reply's other records: counts of many thousand classes, with room


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


@dataclass(frozen=True)
class Screened:
    """Replies after screening, by site in the order of names.

    Attributes
    ----------
    messages : dict of str to Message
        Usable replies.
    metrics : dict of str to MetricRecord
        Their metrics.
    dropped : list of (str, str)
        Every other site that was asked, with the reason.
    bytes_received : int
        Size of all replies.
    """

    messages: dict[str, Message]
    metrics: dict[str, MetricRecord]
    dropped: list[tuple[str, str]]
    bytes_received: int


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


def check_size(content: RecordDict) -> None:
    """Raise BadReplyError when a reply carries more beside its arrays than any client has to say."""
    beside = sum(record.count_bytes() for record in content.values() if not isinstance(record, ArrayRecord))
    if beside > _MOST_BESIDE_ARRAYS:
        raise BadReplyError(f"{beside} bytes beside its arrays, expected at most {_MOST_BESIDE_ARRAYS}")


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


def as_sent(arrays: ArrayRecord, sent: ArrayRecord) -> ArrayRecord:
    """Give an aggregate the types of what was sent: some strategies compute in another one.

    Raises
    ------
    ValueError
        When names or shapes differ, or a value is not finite.
    """
    found, wanted = to_arrays(arrays), to_arrays(sent)
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in wanted.items()}:
        raise ValueError("its arrays differ in name or shape from those that were sent")
    if not all(np.isfinite(value).all() for value in found.values()):
        raise ValueError("its arrays hold NaN or Inf")
    whole = {name for name, value in wanted.items() if value.dtype.kind in "iu"}  # counters, as BatchNorm's
    found |= {name: np.rint(found[name]) for name in whole}  # a mean of equal integers may fall short of them
    return to_array_record({name: found[name].astype(wanted[name].dtype, copy=False) for name in wanted})


def check_scores(metrics: MetricRecord, num_classes: int = 0) -> SiteScores:
    """Give a site's scores.

    Raises
    ------
    BadReplyError
        When they are impossible, or lists by class have another length than ``num_classes`` (0: any).
    """
    try:
        found = {model: counts_from_metrics(model, metrics) for model in MODELS}
    except (ValueError, TypeError) as error:
        raise BadReplyError(f"impossible class counts: {error}") from error
    counts = {model: one for model, one in found.items() if one is not None}
    if "global" not in counts:
        raise BadReplyError("no score of the global model")
    lengths = {len(one.total) for one in counts.values()}
    if len(lengths) > 1 or (num_classes and not lengths <= {1, num_classes}):
        raise BadReplyError(f"counts of {sorted(lengths)} classes, expected {num_classes or 'as many for each model'}")
    most = max(sum(one.total.tolist()) for one in counts.values())
    if most > MOST_EXAMPLES:
        raise BadReplyError(f"{most} scored images: expected at most {MOST_EXAMPLES}")
    return SiteScores(counts, "personalized" in counts)


def uniform(message: Message, metric_names: list[str], equal: str = "") -> Message:
    """Cut a reply down to its arrays, other records, and the metrics that all replies share.

    Flower's strategies refuse a whole round when one reply has a metric more than another. The metric named by
    ``equal`` becomes 1: every reply then weighs the same.
    """
    records: dict[str, Any] = {
        name: record for name, record in message.content.items() if not isinstance(record, ArrayRecord | MetricRecord)
    }
    metrics = next(iter(message.content.metric_records.values()))
    records[ARRAYS] = next(iter(message.content.array_records.values()))
    records[METRICS] = MetricRecord({name: 1 if name == equal else metrics[name] for name in metric_names})
    message.content = RecordDict(records)
    return message


def screen(
    replies: Iterable[Message], check: Callable[[Message, str], MetricRecord], roster: Roster, expected: list[str]
) -> Screened:
    """Sort out the usable replies, and find the reason for every other.

    Parameters
    ----------
    replies : iterable of Message
    check : callable
        Gives the metrics of a site's reply; raises BadReplyError when it cannot be used.
    roster : Roster
        Tells which site a node is.
    expected : list of str
        Sites that were asked; replies of others are ignored, as is a site's second one.

    Returns
    -------
    Screened
    """
    good: dict[str, tuple[Message, MetricRecord]] = {}
    reasons: dict[str, str] = {}
    unsigned = []  # errors that Flower sends in the place of a node that is gone do not carry its id
    received, asked = 0, set(expected)
    for message in replies:
        site = roster.site(message.metadata.src_node_id)
        if message.has_error():
            if site is None:
                unsigned.append(brief(message.error.reason))
            else:
                reasons[site] = brief(message.error.reason)
            continue
        received += size_of(message)
        if site is None or site not in asked or site in good:
            continue
        try:
            check_size(message.content)
            good[site] = (message, check(message, site))
        except BadReplyError as error:
            reasons[site] = str(error)
    lost = f"no reply ({'; '.join(sorted(set(unsigned)))})" if unsigned else "no reply in time"
    ordered = sorted(good)
    return Screened(
        {site: good[site][0] for site in ordered},
        {site: good[site][1] for site in ordered},
        [(site, reasons.get(site, lost)) for site in expected if site not in good],
        received,
    )


def brief(reason: str | None) -> str:
    r"""Cut the reason of an error message to its last line, less what Flower and Ray wrap around it: whole tracebacks.

    >>> brief("RayTaskError:<'Traceback ...\nException ClientAppException occurred. Message: ValueError: no data'>")
    'ValueError: no data'
    """
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    last = lines[-1].rpartition("occurred. Message: ")[2] if lines else ""
    return last.removesuffix("'>") or "error"


def size_of(message: Message) -> int:
    """Count the bytes of a message's arrays and metrics; instructions, which name folders, are left out."""
    arrays = sum(record.count_bytes() for record in message.content.array_records.values())
    return arrays + sum(record.count_bytes() for record in message.content.metric_records.values())
