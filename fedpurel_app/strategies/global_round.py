"""Global rounds: sites train the shared parameters, and an inner strategy averages them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from logging import WARNING, getLogger

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedpurel_app.compression import Codec
from fedpurel_app.core.errors import RunError
from fedpurel_app.core.names import listed
from fedpurel_app.core.records import BRIEF, PRIVACY, PRIVACY_MOD, Arrays, to_array_record, to_arrays
from fedpurel_app.strategies.cohort_grid import CohortGrid
from fedpurel_app.strategies.inner_checks import refuse_idle, refuse_waiting
from fedpurel_app.strategies.legacy_clients import Abilities
from fedpurel_app.strategies.parts import Part, Reply
from fedpurel_app.strategies.pooling import shared_numbers
from fedpurel_app.strategies.post import Post
from fedpurel_app.strategies.privacy import Clipping
from fedpurel_app.strategies.quorum import Quorum
from fedpurel_app.strategies.replies import ScreenedReplies, arrays_of, cast_like, size_of, strip_reply
from fedpurel_app.strategies.round_report import RoundReport
from fedpurel_app.strategies.rounds import Round
from fedpurel_app.strategies.screening import BadReplyError, check_arrays, check_lists, the_metrics

logger = getLogger("flwr.fedpurel.strategy")
_NO_MOD = "the client's privacy mod did not run"


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
    codec : Codec or None
        What shortens replies.
    others : frozenset of str
        Of the arrays, those that are trained in personal rounds, and have no part in this one.
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
        codec: Codec | None = None,
        others: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(post, abilities, quorum, key)
        self.inner, self.clipping, self.required_mod = inner, clipping, required_mod
        self.writes_state, self._tells_of_purification, self.part = keeps_state, purifies, part
        self.codec, self.undoes_lost = codec, part is not None or (codec is not None and codec.remembers)
        self._others = others
        self._without_mod: set[str] = set()
        self._number = 0  # of the round
        self._sizes: dict[str, int] = {}  # images by site
        self._lists: Mapping[str, int] = {}  # of numbers that a reply may have, by name with their length
        if part is not None and clipping is not None:
            raise ValueError("a method's part at the server weighs replies, which a strategy that clips must not do.")
        if codec is not None and clipping is not None:
            raise ValueError("a strategy that clips must see whole updates, and a codec sends none.")

    def part_of(self, arrays: ArrayRecord) -> ArrayRecord:
        """Choose those that global rounds train."""
        if not self._others:
            return arrays
        return ArrayRecord({name: array for name, array in arrays.items() if name not in self._others})

    def messages(self, report: RoundReport, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Have the inner strategy write to the cohort, which is all that it sees."""
        config.update(self.post.instruction(report.phase.value, report.round).to_config())
        self._number = report.round
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
        messages = [self.post.laid_out(message) for message in messages]
        report.bytes_down += sum(size_of(message) for message in messages)
        return messages

    def check(self, content: RecordDict, site: str) -> None:
        """Refuse arrays and lists of another form, and updates whose client did not do its part of the privacy."""
        if self.codec is None:
            check_arrays(content, self.sent)
        else:
            self._expand(content, self.codec, site)
        if self.part is not None:
            check_lists(the_metrics(content), self._lists)
        record = content.config_records.get(PRIVACY)
        said = record.get(PRIVACY_MOD) if record else None
        if self.required_mod and said != self.required_mod:
            self._without_mod.add(site)
            raise BadReplyError(f'{_NO_MOD}: expected "{self.required_mod}", the reply says {said!r}')
        if self.clipping is not None:
            self.clipping.check(content, self.sent)

    def _expand(self, content: RecordDict, codec: Codec, site: str) -> None:
        """Put the parameters that a shortened reply stands for in its place: all that follows sees whole replies."""
        sent: Arrays = to_arrays(self.sent)
        sent = sent if self.part is None else self.part.base(sent, site)
        check_arrays(content, to_array_record(codec.form(sent)))
        (name,) = content.array_records
        try:
            whole = codec.restore(to_arrays(content.array_records[name]), sent, self._number)
        except ValueError as error:
            raise BadReplyError(f"shortened arrays: {error}") from error
        content[name] = to_array_record(whole)

    def _brief(self, part: Part, messages: list[Message]) -> None:
        sent = to_arrays(self.sent)
        described = self.post.roster.descriptions.items()
        self._lists = part.lists(sent)
        part.meet(sent, {site: one.class_counts for site, one in described if one is not None})
        part.place({site: one.edge for site, one in described if one is not None and one.edge})
        for message in messages:
            site = self.post.roster.site(message.metadata.dst_node_id) or ""
            if (base := part.base(sent, site)) is not sent:
                (name,) = message.content.array_records
                message.content = RecordDict({**message.content, name: to_array_record(base)})
            if brief := part.brief(sent, site):
                message.content = RecordDict({**message.content, BRIEF: to_array_record(brief)})

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
            sent, replies, report.trust = self._for_part(screened)
            messages = [
                strip_reply(message, names, self.key, equal=clipping is not None, factor=report.trust.get(site, 1))
                for site, message in screened.messages.items()
            ]
            arrays, _ = self.inner.aggregate_train(report.round, messages)
            arrays = None if arrays is None else cast_like(arrays, self.sent)
            if self.part is not None and arrays is not None:
                new = self.part.finish(sent, to_arrays(arrays), replies, sum(self._sizes.values()))
                arrays = cast_like(to_array_record(new), self.sent)
        except Exception as error:
            logger.log(WARNING, "%s failed on round %d", type(self.inner).__name__, report.round, exc_info=True)
            report.dropped.append(("server", f"{type(self.inner).__name__}: {error}"))
            arrays = None
        if clipping is not None:
            report.privacy |= clipping.facts()
        report.kept_old_model = arrays is None
        report.part = {} if self.part is None else dict(self.part.tells())
        return arrays

    def _for_part(self, screened: ScreenedReplies) -> tuple[Arrays, dict[str, Reply], dict[str, float]]:
        """Read for the method's part what was sent and what came, and ask it for weights; nothing where it has none."""
        if self.part is None:
            return {}, {}, {}
        trained = {site: int(metrics[self.key]) for site, metrics in screened.metrics.items()}  # type: ignore[arg-type]
        described = self.post.roster.descriptions
        self._sizes |= trained | {site: one.num_examples for site, one in described.items() if one is not None}
        replies = {
            site: Reply(
                arrays_of(message.content),
                trained[site],
                self._sizes[site],
                _number(screened.metrics[site].get("loss")),
                lists=check_lists(screened.metrics[site], self._lists),
            )
            for site, message in screened.messages.items()
        }
        sent = to_arrays(self.sent)
        factors = dict(self.part.weights(sent, replies))
        weighed = {site: reply._replace(factor=factors.get(site, 1.0)) for site, reply in replies.items()}
        return sent, weighed, factors

    def _see_purification(self, metrics: Mapping[str, float]) -> None:
        """Say once when clients do not seem to do what the strategy is named after."""
        if self._tells_of_purification and "conflict" not in metrics:
            logger.log(WARNING, 'No site reports the metric "conflict": either the clients do not purify their '
                       "gradients, and global rounds are those of %s alone, or they keep it to themselves. In a torch "
                       "client, fedpurel_app.functional.purified_step does it.", type(self.inner).__name__)  # fmt: skip
        self._tells_of_purification = False


def _number(value: object) -> float | None:
    """Return a metric as a finite number of at least 0; None where it is something else."""
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else None
