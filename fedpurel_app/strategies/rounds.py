"""The two kinds of training rounds: what sites are asked, what a reply must be, and what becomes of the replies."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from logging import INFO, WARNING, getLogger
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedpurel_app.core.errors import RunError
from fedpurel_app.core.names import listed
from fedpurel_app.core.records import (
    BRIEF,
    FEATURE_SECONDS,
    PERSONALIZE,
    PRIVACY,
    PRIVACY_MOD,
    RESTARTED,
    SECONDS,
    WORKER,
    to_array_record,
    to_arrays,
)
from fedpurel_app.strategies.inner_checks import refuse_idle, refuse_waiting
from fedpurel_app.strategies.legacy_clients import Abilities
from fedpurel_app.strategies.parts import Part, Reply
from fedpurel_app.strategies.pooling import shared_numbers, weighted_means
from fedpurel_app.strategies.post import Post
from fedpurel_app.strategies.privacy import Clipping
from fedpurel_app.strategies.quorum import Quorum
from fedpurel_app.strategies.replies import ScreenedReplies, cast_like, screen, size_of, strip_reply
from fedpurel_app.strategies.roster import CohortGrid
from fedpurel_app.strategies.round_report import RoundReport
from fedpurel_app.strategies.screening import BadReplyError, check_arrays, check_metrics, check_numbers, the_metrics

logger = getLogger("flwr.fedpurel.strategy")
_details = getLogger("flwr")  # where Flower's own strategies log; an app that prints a line a round mutes it

_NO_MOD = "the client's privacy mod did not run"
_NOT_AVERAGED = {SECONDS, FEATURE_SECONDS, WORKER, RESTARTED}  # recorded per site, not averaged


def record_replies(report: RoundReport, screened: ScreenedReplies, abilities: Abilities, message_type: str) -> None:
    """Take replies into the round's report, log those that were dropped, and learn who has no such function."""
    report.take(screened)
    abilities.learn(screened.dropped, message_type)
    for site, reason in screened.dropped:
        _details.log(INFO, "\t> No usable reply to %s from %s: %s", message_type, site, reason)


class Round(ABC):
    """What both kinds share: screening, the quorum, means of metrics, and who wrote private state.

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

    def __init__(self, post: Post, abilities: Abilities, quorum: Quorum, key: str) -> None:
        self.post, self.abilities, self.quorum, self.key = post, abilities, quorum, key
        self.expected: list[str] = []
        self.sent, self._clock = ArrayRecord(), 0.0

    def configure(
        self, report: RoundReport, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Write to the sites of the cohort that are connected."""
        connected = [site for site in report.cohort if self.post.roster.node(site) is not None]
        report.dropped += [(site, "not connected") for site in report.cohort if site not in connected]
        self.expected, self.sent, self._clock = connected, arrays, time.monotonic()
        return self.messages(report, config, grid)

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
            arrays = self.average(report, screened)
        if self.writes_state:
            # Also below the quorum: these sites did train, and the next message must name what they wrote.
            self.post.private_rounds.update(dict.fromkeys(report.usable, report.round))
        self.quorum.settle(report, needed)
        return arrays, MetricRecord(dict(report.train)) if report.train else None

    def _checked(self, message: Message, site: str) -> MetricRecord:
        self.check(message.content, site)
        description = self.post.roster.descriptions[site]
        return check_metrics(message.content, self.key, None if description is None else description.num_examples)


class PersonalRound(Round):
    """Sites train what is theirs alone: nothing comes back but numbers."""

    message_type = PERSONALIZE

    def messages(self, report: RoundReport, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Write to those that may have a personal phase."""
        able = self.abilities.able(self.expected, PERSONALIZE)
        report.dropped += [(site, f"has no {PERSONALIZE}") for site in self.expected if site not in able]
        self.expected = able
        return self.post.address(able, self.sent, config, report, PERSONALIZE)

    def check(self, content: RecordDict, site: str) -> None:
        """Refuse arrays."""
        if content.array_records:
            raise BadReplyError("sent arrays in a personal round; private branches stay at their site")

    def needed(self, report: RoundReport) -> int:
        """Return the quorum of those that have a personal phase: the others do not fail in it."""
        return min(self.quorum.min_replies, len(self.abilities.able(report.cohort, PERSONALIZE)))

    def average(self, report: RoundReport, screened: ScreenedReplies) -> ArrayRecord | None:
        """Leave the shared parameters as they are."""
        return None


class GlobalRound(Round):
    """Sites train the shared parameters, and an inner strategy averages them.

    Parameters
    ----------
    post, abilities, quorum, key
        As of :class:`Round`.
    inner : Strategy
    clipping : Clipping or None
    required_mod : str
        What a reply must give as ``mod`` where clients do a part of the privacy; empty = nothing.
    keeps_state : bool
        Sites write private state in global rounds, too.
    purifies : bool
        Whether clients are meant to purify their gradients.
    part : Part or None
        What the method does beside averaging.
    """

    message_type = MessageType.TRAIN

    def __init__(
        self,
        post: Post,
        abilities: Abilities,
        quorum: Quorum,
        key: str,
        inner: Strategy,
        clipping: Clipping | None,
        required_mod: str,
        keeps_state: bool,
        purifies: bool,
        part: Part | None = None,
    ) -> None:
        super().__init__(post, abilities, quorum, key)
        self.inner, self.clipping, self.required_mod = inner, clipping, required_mod
        self.writes_state, self._tells_of_purification, self.part = keeps_state, purifies, part
        self._without_mod: set[str] = set()

    def messages(self, report: RoundReport, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Have the inner strategy write to the cohort, which is all that it sees."""
        config.update(self.post.instruction(report.phase.value, report.round).to_config())
        nodes = [node for node in map(self.post.roster.node, self.expected) if node is not None]
        refuse_waiting(self.inner, len(nodes))
        if not nodes:
            return []
        if self.clipping is not None:
            self.clipping.refuse_scalars(self.sent)
            self.clipping.expect(len(nodes))
        messages = list(self.inner.configure_train(report.round, self.sent, config, CohortGrid(grid, nodes)))
        if self.writes_state:
            messages = [self.post.with_private_round(message) for message in messages]
        if self.part is not None:
            self._brief(self.part, messages)
        report.bytes_down += sum(size_of(message) for message in messages)
        return messages

    def check(self, content: RecordDict, site: str) -> None:
        """Refuse arrays of another form, and updates whose client did not do its part of the privacy."""
        check_arrays(content, self.sent)
        record = content.config_records.get(PRIVACY)
        said = record.get(PRIVACY_MOD) if record else None
        if self.required_mod and said != self.required_mod:
            self._without_mod.add(site)
            raise BadReplyError(f'{_NO_MOD}: expected "{self.required_mod}", the reply says {said!r}')
        if self.clipping is not None:
            self.clipping.check(content, self.sent)
        if self.part is not None:
            check_numbers(the_metrics(content), self.part.numbers)

    def _brief(self, part: Part, messages: list[Message]) -> None:
        sent = to_arrays(self.sent)
        for message in messages:
            site = self.post.roster.site(message.metadata.dst_node_id) or ""
            message.content = RecordDict({**message.content, BRIEF: to_array_record(part.brief(sent, site))})

    def needed(self, report: RoundReport) -> int:
        """Return the quorum; raises RunError when no client runs the mod that the privacy rests on."""
        if not report.usable and 2 * len(self._without_mod) > len(self.post.roster.names):
            without = listed(sorted(self._without_mod))
            raise RunError(f'Round {report.round}: {_NO_MOD}: expected "{self.required_mod}" of {without}')
        return self.quorum.min_replies

    def average(self, report: RoundReport, screened: ScreenedReplies) -> ArrayRecord | None:
        """Let the inner strategy aggregate; what it refuses costs the round, not the run."""
        self._see_purification(report.train)
        clipping, names = self.clipping, shared_numbers(screened.metrics.values())
        if clipping is not None:
            clipping.expect(len(screened.messages))
            report.privacy = {"clipping_norm": clipping.norm}
        try:
            refuse_idle(self.inner, len(screened.messages))
            sent, replies = to_arrays(self.sent), self._replies(screened)
            factors = self.part.weights(sent, replies) if self.part is not None else {}
            messages = [
                strip_reply(message, names, self.key, equal=clipping is not None, factor=factors.get(site, 1))
                for site, message in screened.messages.items()
            ]
            arrays, _ = self.inner.aggregate_train(report.round, messages)
            arrays = None if arrays is None else cast_like(arrays, self.sent)
            if self.part is not None and arrays is not None:
                new = self.part.finish(sent, to_arrays(arrays), replies, len(self.post.roster.names))
                arrays = cast_like(to_array_record(new), self.sent)
        except Exception as error:
            logger.log(WARNING, "%s failed on round %d", type(self.inner).__name__, report.round, exc_info=True)
            report.dropped.append(("server", f"{type(self.inner).__name__}: {error}"))
            arrays = None
        if clipping is not None:
            report.privacy |= clipping.facts()
        report.kept_old_model = arrays is None
        return arrays

    def _replies(self, screened: ScreenedReplies) -> dict[str, Reply]:
        """Read the replies for the method's part; none where it has no part."""
        if self.part is None:
            return {}
        return {
            site: Reply(
                to_arrays(next(iter(message.content.array_records.values()))),
                check_numbers(screened.metrics[site], self.part.numbers),
            )
            for site, message in screened.messages.items()
        }

    def _see_purification(self, metrics: Mapping[str, float]) -> None:
        """Say once when clients do not seem to do what the strategy is named after."""
        if self._tells_of_purification and "conflict" not in metrics:
            logger.log(WARNING, 'No site reports the metric "conflict": either the clients do not purify their '
                       "gradients, and global rounds are those of %s alone, or they keep it to themselves. In a torch "
                       "client, fedpurel_app.functional.purified_step does it.", type(self.inner).__name__)  # fmt: skip
        self._tells_of_purification = False
