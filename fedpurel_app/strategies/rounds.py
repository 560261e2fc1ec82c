"""Kinds of rounds: what sites are asked, what a reply must be, and what becomes of the replies."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from logging import INFO, WARNING, getLogger
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedpurel_app.core.records import (
    FEATURE_SECONDS,
    PERSONALIZE,
    RESTARTED,
    SECONDS,
    WORKER,
    Arrays,
    to_arrays,
)
from fedpurel_app.strategies.inner_checks import refuse_idle
from fedpurel_app.strategies.legacy_clients import Abilities
from fedpurel_app.strategies.parts import Part
from fedpurel_app.strategies.pooling import shared_numbers, weighted_means
from fedpurel_app.strategies.post import Post
from fedpurel_app.strategies.quorum import Quorum
from fedpurel_app.strategies.replies import ScreenedReplies, arrays_of, cast_like, screen, strip_reply
from fedpurel_app.strategies.round_report import RoundReport
from fedpurel_app.strategies.screening import BadReplyError, check_arrays, check_metrics

logger = getLogger("flwr.fedpurel.strategy")
_details = getLogger("flwr")  # where Flower's own strategies log; an app that prints a line a round mutes it

_NOT_AVERAGED = {SECONDS, FEATURE_SECONDS, WORKER, RESTARTED}  # recorded per site, not averaged


def record_replies(report: RoundReport, screened: ScreenedReplies, abilities: Abilities, message_type: str) -> None:
    """Take replies into the round's report, log those that were dropped, and learn who has no such function."""
    report.take(screened)
    abilities.learn(screened.dropped, message_type)
    for site, reason in screened.dropped:
        _details.log(INFO, "\t> No usable reply to %s from %s: %s", message_type, site, reason)


class Round(ABC):
    """What all kinds share: screening, the quorum, means of metrics, and who wrote private state.

    Parameters
    ----------
    post : Post
    abilities : Abilities
    quorum : Quorum
    key : str
        Metric with a reply's number of examples.
    """

    message_type: ClassVar[str]
    writes_state = True  # whether sites write private state in such a round
    undoes_lost = False  # whether sites go back to what they had before a round that kept the old model

    def __init__(self, post: Post, abilities: Abilities, quorum: Quorum, key: str) -> None:
        self.post, self.abilities, self.quorum, self.key = post, abilities, quorum, key
        self.expected: list[str] = []
        self._all, self.sent, self._clock = ArrayRecord(), ArrayRecord(), 0.0

    def configure(
        self, report: RoundReport, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Write to the sites of the cohort that are connected."""
        connected = [site for site in report.cohort if self.post.roster.node(site) is not None]
        report.dropped += [(site, "not connected") for site in report.cohort if site not in connected]
        self.expected, self._all, self._clock = connected, arrays, time.monotonic()
        self.sent = self.part_of(arrays)
        return self.messages(report, config, grid)

    def part_of(self, arrays: ArrayRecord) -> ArrayRecord:
        """Choose from all arrays those that are sent to sites."""
        return arrays

    @abstractmethod
    def messages(self, report: RoundReport, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Make the messages."""

    @abstractmethod
    def check(self, content: RecordDict, site: str) -> None:
        """Raise BadReplyError unless a reply's arrays are what such a round wants."""

    @abstractmethod
    def needed(self, report: RoundReport) -> int:
        """Return how many usable replies the round needs."""

    @abstractmethod
    def average(self, report: RoundReport, screened: ScreenedReplies) -> ArrayRecord | None:
        """Return the new shared parameters; None where they stay."""

    def aggregate(
        self, report: RoundReport, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen the replies and make of them what the round is for."""
        screened = screen(replies, self._checked, self.post.roster, self.expected)
        record_replies(report, screened, self.abilities, self.message_type)
        report.usable = list(screened.messages)
        report.keep_time("training", time.monotonic() - self._clock, screened.metrics)
        needed, arrays = self.needed(report), None
        if len(report.usable) < needed:
            report.kept_old_model = True
        else:
            means = weighted_means(list(screened.metrics.values()), self.key)
            report.train = {name: value for name, value in means.items() if name not in _NOT_AVERAGED}
            arrays = self._among_others(self.average(report, screened))
        if self.writes_state and not (report.kept_old_model and self.undoes_lost):
            # Also below the quorum: these sites did train, and the next message must name what they wrote.
            self.post.private_rounds.update(dict.fromkeys(report.usable, report.round))
        self.quorum.settle(report, needed)
        return arrays, MetricRecord(dict(report.train)) if report.train else None

    def _among_others(self, new: ArrayRecord | None) -> ArrayRecord | None:
        """Put new arrays in the place of those that they are of."""
        if new is None or set(new) == set(self._all):
            return new
        return ArrayRecord({name: new.get(name, array) for name, array in self._all.items()})

    def _checked(self, message: Message, site: str) -> MetricRecord:
        self.check(message.content, site)
        description = self.post.roster.descriptions[site]
        return check_metrics(message.content, self.key, None if description is None else description.num_examples)


class PersonalRound(Round):
    """Sites train what is theirs alone: nothing comes back but numbers, and what the method names.

    Parameters
    ----------
    post, abilities, quorum, key
        As of :class:`Round`.
    inner : Strategy
        Aggregates what comes back.
    names : frozenset of str
        Of the arrays, those that must; none by default.
    part : Part or None
        What the method does beside averaging.
    """

    message_type = PERSONALIZE

    def __init__(self, post: Post, abilities: Abilities, quorum: Quorum, key: str, inner: Strategy,
                 names: frozenset[str], part: Part | None = None) -> None:  # fmt: skip
        super().__init__(post, abilities, quorum, key)
        self.inner, self.names, self.part = inner, names, part

    def messages(self, report: RoundReport, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Write to those that may have a personal phase."""
        able = self.abilities.able(self.expected, PERSONALIZE)
        report.dropped += [(site, f"has no {PERSONALIZE}") for site in self.expected if site not in able]
        self.expected = able
        briefs: dict[str, Arrays] = {}
        if self.part is not None:
            sent = to_arrays(self._shared())
            briefs = {site: self.part.brief_personal(sent, site) for site in able}
        return self.post.address(able, self.sent, config, report, PERSONALIZE, briefs)

    def check(self, content: RecordDict, site: str) -> None:
        """Refuse arrays, and where the method shares some, any others, any other form, and what its part refuses."""
        if self.names:
            check_arrays(content, self._shared())
            if self.part is not None and (why := self.part.refuses(arrays_of(content))):
                raise BadReplyError(why)
        elif content.array_records:
            raise BadReplyError("sent arrays in a personal round; private branches stay at their site")

    def needed(self, report: RoundReport) -> int:
        """Return the quorum of those that have a personal phase: the others do not fail in it."""
        return min(self.quorum.min_replies, len(self.abilities.able(report.cohort, PERSONALIZE)))

    def average(self, report: RoundReport, screened: ScreenedReplies) -> ArrayRecord | None:
        """Average what the method shares; leave all other parameters as they are."""
        if not self.names:
            return None
        names = shared_numbers(screened.metrics.values())
        try:
            refuse_idle(self.inner, len(screened.messages))
            messages = [
                strip_reply(message, names, self.key, equal=False, factor=1) for message in screened.messages.values()
            ]
            arrays, _ = self.inner.aggregate_train(report.round, messages)
            if arrays is None:
                return None
            new = cast_like(arrays, self._shared())
            if self.part is not None:
                self.part.learn({site: arrays_of(one.content) for site, one in screened.messages.items()})
            return new
        except Exception as error:  # costs the round, not the run
            logger.log(WARNING, "%s failed on round %d", type(self.inner).__name__, report.round, exc_info=True)
            report.dropped.append(("server", f"{type(self.inner).__name__}: {error}"))
            report.kept_old_model = True
            return None

    def _shared(self) -> ArrayRecord:
        return ArrayRecord({name: array for name, array in self.sent.items() if name in self.names})


class EvaluationRound(Round):
    """Nobody trains; what comes after a round is all there is."""

    message_type = MessageType.TRAIN
    writes_state = False

    def messages(self, report: RoundReport, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Write to nobody."""
        return []

    def check(self, content: RecordDict, site: str) -> None:
        """Refuse all: nobody was asked."""
        raise BadReplyError("answered in a round in which nobody trains")

    def needed(self, report: RoundReport) -> int:
        """Return 0."""
        return 0

    def average(self, report: RoundReport, screened: ScreenedReplies) -> ArrayRecord | None:
        """Leave the shared parameters as they are."""
        return None
