"""Sort replies: usable ones in the order of the sites' names, and the reason for every other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fedpurel_app.core.layout import METHOD
from fedpurel_app.core.records import ARRAYS, METRICS, Arrays, is_finite, to_array_record, to_arrays
from fedpurel_app.strategies.roster import Roster
from fedpurel_app.strategies.screening import BadReplyError, check_size, last_line


@dataclass(frozen=True)
class ScreenedReplies:
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


def arrays_of(content: RecordDict) -> Arrays:
    """Unpack the one ArrayRecord of a screened reply."""
    return to_arrays(next(iter(content.array_records.values())))


def cast_like(arrays: ArrayRecord, sent: ArrayRecord) -> ArrayRecord:
    """Return an aggregate in the types of what was sent: some strategies compute in another one.

    Raises
    ------
    ValueError
        When names or shapes differ, or a value is not finite.
    """
    found, wanted = to_arrays(arrays), to_arrays(sent)
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in wanted.items()}:
        raise ValueError("its arrays differ in name or shape from those that were sent")
    if not is_finite(found):
        raise ValueError("its arrays hold NaN or Inf")
    whole = {name for name, value in wanted.items() if value.dtype.kind in "iu"}  # counters, as BatchNorm's
    found |= {name: np.rint(found[name]) for name in whole}  # a mean of equal integers may fall short of them
    return to_array_record({name: found[name].astype(wanted[name].dtype, copy=False) for name in wanted})


def strip_reply(message: Message, metric_names: list[str], key: str, equal: bool, factor: float) -> Message:
    """Cut a reply down to its arrays, other records, and the metrics that all replies share.

    Flower's strategies refuse a whole round when one reply has a metric more than another.

    Parameters
    ----------
    message : Message
        Changed in place.
    metric_names : list of str
        The metrics that all replies share.
    key : str
        The metric that the inner strategy weighs by.
    equal : bool
        Every reply weighs 1.
    factor : float
        Of its weight.
    """
    records: dict[str, Any] = {
        name: record for name, record in message.content.items() if not isinstance(record, ArrayRecord | MetricRecord)
    }
    metrics = next(iter(message.content.metric_records.values()))
    records[ARRAYS] = next(iter(message.content.array_records.values()))
    numbers = {name: metrics[name] for name in metric_names}
    weight: Any = 1 if equal else metrics[key]
    records[METRICS] = MetricRecord({**numbers, key: weight if factor == 1 else factor * weight})
    message.content = RecordDict(records)
    return message


def screen(
    replies: Iterable[Message], check: Callable[[Message, str], MetricRecord], roster: Roster, expected: list[str]
) -> ScreenedReplies:
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
    ScreenedReplies
    """
    good: dict[str, tuple[Message, MetricRecord]] = {}
    reasons: dict[str, str] = {}
    unsigned = []  # errors that Flower sends in the place of a node that is gone do not carry its id
    received, asked = 0, set(expected)
    for message in replies:
        site = roster.site(message.metadata.src_node_id)
        if message.has_error():
            if site is None:
                unsigned.append(last_line(message.error.reason))
            else:
                reasons[site] = last_line(message.error.reason)
            continue
        if site is None or site not in asked or site in good:
            continue
        try:
            received += size_of(message)
            check_size(message.content)
            roster.hear(site, message.content)
            good[site] = (message, check(message, site))
        except BadReplyError as error:
            reasons[site] = str(error)
        except Exception as error:  # whatever a site sent, the run goes on
            reasons[site] = f"its reply cannot be read ({type(error).__name__})"
    lost = f"no reply ({'; '.join(sorted(set(unsigned)))})" if unsigned else "no reply in time"
    ordered = sorted(good)
    return ScreenedReplies(
        {site: good[site][0] for site in ordered},
        {site: good[site][1] for site in ordered},
        [(site, reasons.get(site, lost)) for site in expected if site not in good],
        received,
    )


def size_of(message: Message) -> int:
    """Count the bytes of a message's arrays, layout and metrics; instructions, which name folders, are left out."""
    content = message.content
    arrays = sum(record.count_bytes() for record in content.array_records.values())
    layouts = (record.count_bytes() for name, record in content.config_records.items() if name == METHOD)
    return arrays + sum(layouts) + sum(record.count_bytes() for record in content.metric_records.values())
