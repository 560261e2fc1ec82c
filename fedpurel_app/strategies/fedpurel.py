"""The FedPuReL strategy: seeded cohorts, any inner strategy for the global rounds, private branches in the others."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from logging import INFO, WARNING, getLogger
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from fedpurel_app.core.errors import RunError
from fedpurel_app.core.metrics import pool
from fedpurel_app.core.names import listed
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.records import (
    ARRAYS,
    CONFIG,
    FEATURE_SECONDS,
    NUM_EXAMPLES,
    PERSONALIZE,
    PRIVACY,
    PRIVACY_MOD,
    RESTARTED,
    SECONDS,
    WORKER,
    Description,
    Instruction,
)
from fedpurel_app.core.site_scores import SiteScores
from fedpurel_app.strategies.inner_checks import refuse_idle, refuse_sampling, refuse_waiting
from fedpurel_app.strategies.legacy_clients import Abilities, sends_no_counts
from fedpurel_app.strategies.pooling import shared_numbers, weighted_means
from fedpurel_app.strategies.privacy import Clipping
from fedpurel_app.strategies.replies import Screened, as_sent, screen, size_of, uniform
from fedpurel_app.strategies.roster import CohortGrid, Roster
from fedpurel_app.strategies.round_report import RoundReport
from fedpurel_app.strategies.schedule import Schedule
from fedpurel_app.strategies.screening import (
    BadReplyError,
    check_arrays,
    check_metrics,
    check_scores,
    the_metrics,
    withholds,
)
from fedpurel_app.strategies.sites import refuse_other_parts, wait_for_sites

logger = getLogger("flwr.fedpurel.strategy")
_details = getLogger("flwr")  # where Flower's own strategies log; an app that prints a line a round mutes it

_NO_MOD = "the client's privacy mod did not run"
_NOT_AVERAGED = {SECONDS, FEATURE_SECONDS, WORKER, RESTARTED}  # recorded per site, not averaged


class FedPuReL(Strategy):
    """Run global rounds through an inner strategy and personal rounds without aggregation, over named sites.

    Works with any Flower ClientApp that honours the contract below; nothing here knows of models or of torch.

    Parameters
    ----------
    schedule : Schedule
        Which round does what.
    inner : Strategy, optional
        What aggregates global rounds: FedAvg weighted by numbers of examples by default; FedMedian, FedTrimmedAvg or a
        differential-privacy wrapper around FedAvg work as well. It sees only the cohort, so construct it with
        ``fraction_train=1.0`` and with minimum numbers of nodes that a cohort can meet. Under a wrapper that clips,
        every reply weighs the same, ``num_sampled_clients`` is set to the number of usable replies, and an update that
        its client should have clipped and did not is dropped (see :class:`fedpurel_app.strategies.privacy.Clipping`).
    fraction_train : float
        Share of the sites in a cohort, (0, 1].
    seed : int
        Fixes the cohorts over site names, whatever node ids Flower deals out.
    full_first_round : bool
        Let all sites train in the first round of each phase.
    min_replies : int
        Usable replies below which a global round keeps the old model. A personal round below it counts as failed, too,
        but what its sites wrote stays theirs.
    max_failed_rounds : int
        Such rounds in a row that end the run.
    keeps_parts : bool
        Sites keep a part of the global model, too: a global round also writes their private state.
    evaluate_every : int
        Rounds of a phase between evaluations at all sites; a phase's last round always is one.
    num_sites : int
        Sites to wait for before the first round; 0 = go on with those that are there.
    connect_timeout : float
        Seconds to wait for them.
    query_timeout : float
        Seconds to wait for descriptions.
    experiment_id : str
        Names the private branches of this experiment; the same in a resumed run.
    simulation_dir : str
        Folder for private branches that simulated sites use; real sites never obey it.
    weighted_by_key : str
        Metric with a reply's number of examples.
    num_classes : int
        Length that lists of counts by class must have; 0 = any.
    required_mod : str
        What a reply to ``train`` must give as ``mod`` in a ConfigRecord ``privacy``, where clients do a part of the
        privacy that the server cannot see; empty = nothing.
    purifies : bool
        Whether clients are meant to purify their gradients. Purification is the client's work (see
        :func:`fedpurel_app.functional.purified_step`): one written for FedAvg does not, and its global rounds are those
        of the inner strategy. Where no reply of a global round has the metric ``conflict``, that is logged once.

    Notes
    -----
    The client's contract. Every message but a query carries two records:

    - ArrayRecord ``arrays``: the shared parameters.
    - ConfigRecord ``config``: what the user gave to ``start`` as ``train_config`` or ``evaluate_config``, Flower's
      ``server-round``, and ``phase`` ("global" or "personal"), ``round`` (of the schedule, from 1), ``experiment-id``,
      ``private-round``, ``simulation-dir``, ``attempt``, ``token`` and ``secret`` (see
      :class:`fedpurel_app.core.records.Instruction`), which take precedence.

    ============================ =======================================================================================
    message                      reply
    ============================ =======================================================================================
    ``query.describe``           ConfigRecord ``config``: ``site`` (stable name: letters, digits, ".", "_" and "-"),
                                 ``num-examples`` (at least 1), ``partitions`` (0 for data of its own), ``device``, and
                                 if it likes ``test-examples``; or ``refusal`` ("attempt" or "policy") and ``reason``
    ``train``                    the same arrays, trained (names, shapes and types as sent), and one MetricRecord with
                                 ``num-examples`` and any numbers, of which means are reported
    ``train.personalize``        one MetricRecord with ``num-examples``, no arrays; the private branch stays at the
                                 client, stamped ``round``, started from the one stamped ``private-round`` (0: none)
    ``evaluate``                 one MetricRecord with ``num-examples`` and correct and total counts of the models, in
                                 all or by class: ``global/correct``, ``global/total``, ``personalized/...`` where there
                                 is a branch, ``zero-shot/...`` if it likes; totals are equal and add up to
                                 ``num-examples``; or ``scores-withheld`` = 1 alone
    ============================ =======================================================================================

    Records of a reply are found by their kind, not by their names. Replies are screened one by one (error, missing,
    wrong names, shapes or types, NaN, a number of examples that is not credible, counts that do not fit each other,
    unprintable text); a bad one is dropped with its reason and counted. A metric that fewer than half of them have as a
    number is not reported; the others are means over the sites that have it. Good replies are aggregated in the order
    of the site names, so the same replies give the same bits.

    A client that knows less takes part as far as it can, and what it lacks is logged once, as a warning:

    - no ``query.describe``: it is named ``node-<id>`` after Flower's node id. A restart of the run deals out other ids,
      so cohorts do not repeat; and its ``num-examples`` cannot be compared with what it said of itself.
    - no ``train.personalize``: it is not asked again. The quorum of a personal round is one of those that can; a round
      in which nobody can does nothing and is no failed one.
    - ``evaluate`` without counts: means of all numbers that every site sent are reported, weighted by examples, as
      FedAvg does. They are used where no site sends counts; otherwise these replies are dropped.
    - no ``evaluate``: it is not asked again.

    So a ClientApp written for FedAvg runs unchanged; with ``Schedule(rounds, 0)``, ``fraction_train = 1`` and without
    ``min_replies`` the result is FedAvg's. ``report`` tells of every round who took part, what was dropped and why.

    References
    ----------
    FedPuReL (CVPR 2026, arXiv 2605.02247).
    """

    def __init__(
        self,
        schedule: Schedule,
        inner: Strategy | None = None,
        *,
        fraction_train: float = 0.4,
        seed: int = 0,
        full_first_round: bool = False,
        min_replies: int = 1,
        max_failed_rounds: int = 3,
        keeps_parts: bool = False,
        evaluate_every: int = 1,
        num_sites: int = 0,
        connect_timeout: float = 60.0,
        query_timeout: float = 600.0,
        experiment_id: str = "experiment",
        simulation_dir: str = "",
        weighted_by_key: str = NUM_EXAMPLES,
        num_classes: int = 0,
        required_mod: str = "",
        purifies: bool = True,
    ) -> None:
        if not 0 < fraction_train <= 1:
            raise ValueError(f"fraction_train = {fraction_train}: must lie in (0, 1].")
        if min(min_replies, max_failed_rounds, evaluate_every) < 1:
            raise ValueError("min_replies, max_failed_rounds and evaluate_every must be at least 1.")
        self.inner = inner or FedAvg(min_train_nodes=1, min_available_nodes=1, weighted_by_key=weighted_by_key)
        refuse_sampling(self.inner)
        self.clipping, self.required_mod = Clipping.within(self.inner), required_mod
        self.schedule, self.fraction_train, self.seed = schedule, fraction_train, seed
        self.full_first_round = full_first_round
        self.min_replies, self.max_failed_rounds = min_replies, max_failed_rounds
        self.keeps_parts = keeps_parts
        self.evaluate_every, self.num_sites = evaluate_every, num_sites
        self.connect_timeout, self.query_timeout = connect_timeout, query_timeout
        self.experiment_id, self.simulation_dir = experiment_id, simulation_dir
        self.weighted_by_key, self.num_classes = weighted_by_key, num_classes
        self.attempt, self._token, self._secret = 1, secrets.token_hex(8), secrets.token_hex(16)
        self._without_mod: set[str] = set()
        self.roster = Roster()
        self._restored: dict[str, Description | None] = {}
        self.private_rounds: dict[str, int] = {}
        self.round_offset = 0
        self.report: RoundReport | None = None
        self._failed_in_a_row = 0
        self._sent = ArrayRecord()
        self._clock = 0.0
        self._expected: list[str] = []
        self._abilities = Abilities()
        self._told_of_means, self._tells_of_purification = False, purifies

    # --- sites ------------------------------------------------------------------------------------------------------

    def connect(self, grid: Grid) -> None:
        """Wait for the sites and learn their names.

        Parameters
        ----------
        grid : Grid

        Raises
        ------
        RunError
            When fewer than ``num_sites`` sites (or none) are there in time.
        AttemptError
            When most sites refuse, because they serve another run of this experiment.
        """
        wait_for_sites(
            grid, self.roster, lambda: self._refresh(grid, patient=False), self.num_sites, self.connect_timeout
        )
        present = len(self.roster.present)
        cohort = len(self.roster.draw(self.seed, 1, self.fraction_train))
        if cohort < self.min_replies:
            raise RunError(
                f"min_replies = {self.min_replies}, but a cohort has {cohort} of {present} sites (fraction_train = "
                f"{self.fraction_train:g}): no round could ever have enough."
            )
        refuse_idle(self.inner, cohort)
        if self.num_sites and present > self.num_sites:
            logger.log(INFO, "%d sites are connected, %d were asked for: all take part.", present, self.num_sites)

    def _refresh(self, grid: Grid, patient: bool = True) -> None:
        number = self.report.round if self.report else self.round_offset
        for note in self.roster.refresh(grid, self.query_timeout, patient, self._instruction("describe", number)):
            logger.log(WARNING, note)
        for note in refuse_other_parts(self.roster, self._restored):
            logger.log(WARNING, note)

    # --- training ---------------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Draw the cohort and send it the phase's work."""
        if not self.roster.descriptions:
            self.connect(grid)
        else:
            self._refresh(grid)
        number = server_round + self.round_offset
        phase = self.schedule.phase(number)
        everyone = self.full_first_round and self.schedule.phase_round(number) == 1
        cohort = self.roster.draw(self.seed, self.schedule.draw(number), 1.0 if everyone else self.fraction_train)
        self.report = RoundReport(number, phase, cohort)
        self._expected = [name for name in cohort if self.roster.node(name) is not None]
        self.report.dropped += [(name, "not connected") for name in cohort if self.roster.node(name) is None]
        self._sent, self._clock = arrays, time.monotonic()
        instruction = self._instruction(phase.value, number)
        if phase is Phase.PERSONAL:
            return self._address(self._able(PERSONALIZE), arrays, config, instruction, PERSONALIZE)
        config.update(instruction.to_config())
        nodes = [node for node in map(self.roster.node, self._expected) if node is not None]
        refuse_waiting(self.inner, len(nodes))
        if not nodes:
            return []
        if self.clipping is not None:
            self.clipping.refuse_scalars(arrays)
            self.clipping.expect(len(nodes))
        messages = list(self.inner.configure_train(number, arrays, config, CohortGrid(grid, nodes)))
        if self.keeps_parts:
            messages = [self._with_private_round(message) for message in messages]
        self.report.bytes_down += sum(size_of(message) for message in messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen the replies; average the parameters in a global round, only the metrics in a personal one."""
        report = self._current()
        is_global = report.phase is Phase.GLOBAL

        def check(message: Message, site: str) -> MetricRecord:
            if is_global:
                check_arrays(message.content, self._sent)
                self._check_privacy(message.content, site)
            elif message.content.array_records:
                raise BadReplyError("sent arrays in a personal round; private branches stay at their site")
            description = self.roster.descriptions[site]
            described = None if description is None else description.num_examples
            return check_metrics(message.content, self.weighted_by_key, described)

        screened = screen(replies, check, self.roster, self._expected)
        self._book(screened, MessageType.TRAIN if is_global else PERSONALIZE)
        if not screened.messages and 2 * len(self._without_mod) > len(self.roster.names):
            without = listed(sorted(self._without_mod))
            raise RunError(f'Round {report.round}: {_NO_MOD}: expected "{self.required_mod}" of {without}')
        report.usable, metrics = list(screened.messages), screened.metrics
        report.keep_time("training", time.monotonic() - self._clock, metrics)
        # Clients without a personal phase do not fail in it: the quorum is one of those that have it.
        able = len(report.cohort if is_global else self._abilities.able(report.cohort, PERSONALIZE))
        needed = self.min_replies if is_global else min(self.min_replies, able)
        arrays = None
        if len(report.usable) < needed:
            report.kept_old_model = True
        else:
            names = shared_numbers(metrics.values())
            report.train = {
                name: value
                for name, value in weighted_means(list(metrics.values()), self.weighted_by_key).items()
                if name not in _NOT_AVERAGED
            }
            if is_global:
                self._see_purification(report.train)
                arrays = self._aggregate(list(screened.messages.values()), names)
        if needed:
            self._failed_in_a_row = self._failed_in_a_row + 1 if report.kept_old_model else 0
        if not is_global or self.keeps_parts:
            # Also below the quorum: these sites did train, and the next message must name what they wrote.
            self.private_rounds.update(dict.fromkeys(report.usable, report.round))
        if self._failed_in_a_row >= self.max_failed_rounds:
            raise RunError(report.why_it_failed(needed, self._failed_in_a_row))
        return arrays, MetricRecord(dict(report.train)) if report.train else None

    # --- evaluation -------------------------------------------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask all connected sites, in the rounds that are evaluated, to score their models."""
        report = self._current()
        if not self.schedule.is_evaluated(report.round, self.evaluate_every):
            return []
        self._clock = time.monotonic()
        self._expected = self._abilities.able(self.roster.present, MessageType.EVALUATE)
        instruction = self._instruction(report.phase.value, report.round)
        return self._address(self._expected, arrays, config, instruction, MessageType.EVALUATE)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Screen the scores; they are pooled from counts, exactly, by whoever reads ``report.scores``.

        Where no site sends counts, the means of what they send instead are given.
        """
        report = self._current()
        if not self.schedule.is_evaluated(report.round, self.evaluate_every):
            return None

        def check(message: Message, site: str) -> MetricRecord:
            if withholds(message.content):
                return the_metrics(message.content)
            metrics = check_metrics(message.content, self.weighted_by_key, None)
            if not sends_no_counts(metrics):
                self._scores(site, metrics)
            return metrics

        screened = screen(replies, check, self.roster, self._expected)
        self._book(screened, MessageType.EVALUATE)
        report.withheld = [site for site, message in screened.messages.items() if withholds(message.content)]
        told = {site: record for site, record in screened.metrics.items() if site not in report.withheld}
        report.keep_time("evaluation", time.monotonic() - self._clock, told)
        plain = [site for site, record in told.items() if sends_no_counts(record)]
        report.scores = {site: self._scores(site, record) for site, record in told.items() if site not in plain}
        if not report.scores:
            return self._means(list(told.values()))
        report.dropped += [(site, "no score of the global model") for site in plain]
        pooled = {
            "global/accuracy": pool(score.counts["global"].over_classes() for score in report.scores.values()),
            "personal/accuracy": pool(score.personalized.over_classes() for score in report.scores.values()),
        }
        return MetricRecord({name: counts.accuracy or 0.0 for name, counts in pooled.items() if counts is not None})

    # --- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the arrays, as JSON.

        A clipping norm that moves and the privacy accountant are in it; what other inner strategies keep to themselves
        (moments of FedAdam) is not.
        """
        return {
            "round": self.report.round if self.report else self.round_offset,
            "roster": self.roster.state(),
            "keys": self.roster.keys(),
            "private_rounds": dict(sorted(self.private_rounds.items())),
            "failed_in_a_row": self._failed_in_a_row,
            "experiment_id": self.experiment_id,
            "attempt": self.attempt,
            "secret": self._secret,
            "privacy": {} if self.clipping is None else self.clipping.state(self._may_be_lost),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state as the next attempt; ``start`` is then called with the remaining number of rounds.

        Save :meth:`state` again before the first message. Were this attempt to die before its first checkpoint, the one
        after it would have the same number, and sites that met this one would take it for another run. And a global
        round that was cut off may have reached sites before it could be saved: it is played again, released twice, and
        counts as spent already.

        Parameters
        ----------
        state : mapping
            As :meth:`state` gave it.
        """
        self.round_offset = int(state["round"])
        self.private_rounds = {str(site): int(stamp) for site, stamp in state["private_rounds"].items()}
        self._failed_in_a_row = int(state["failed_in_a_row"])
        self.experiment_id = str(state["experiment_id"])
        self.attempt = int(state.get("attempt", 1)) + 1
        self._secret = str(state.get("secret", ""))  # none was sent before there was one
        self.roster.restore(state["roster"], state.get("keys"))
        self._restored = dict(self.roster.descriptions)
        if self.clipping is not None:
            self.clipping.restore(state.get("privacy", {}), self._may_be_lost)

    def privacy_outlook(self) -> str:
        """Say what the rounds that are left will have spent of the privacy."""
        left = sum(
            self.schedule.phase(number) is Phase.GLOBAL
            for number in range(self.round_offset + 1, self.schedule.total + 1)
        )
        spent = {} if self.clipping is None else self.clipping.after(left)
        if not spent:
            return "of which Flower keeps no account of epsilon"
        return (
            f"epsilon = {spent['epsilon']:.2f} at delta = {spent['delta']:g} when all {spent['releases']} are "
            "released; training metrics and scores are not in it"
        )

    def summary(self) -> None:
        """Log the strategy's settings."""
        schedule = self.schedule
        logger.log(
            INFO,
            "\t├──> %s: %d global and %d personal rounds, %g of the sites in each, seed %d",
            schedule.kind,
            schedule.global_rounds,
            schedule.personal_rounds,
            self.fraction_train,
            self.seed,
        )
        logger.log(INFO, "\t├──> Quorum: %d replies; ends after %d rounds in a row below it",
                   self.min_replies, self.max_failed_rounds)  # fmt: skip
        logger.log(INFO, "\t└──> Global rounds through %s:", type(self.inner).__name__)
        self.inner.summary()

    # --- parts ------------------------------------------------------------------------------------------------------

    def _instruction(self, phase: str, number: int) -> Instruction:
        return Instruction(
            phase,
            number,
            self.experiment_id,
            simulation_dir=self.simulation_dir,
            attempt=self.attempt,
            token=self._token,
            secret=self._secret,
        )

    @property
    def _may_be_lost(self) -> int:
        """How many global rounds may be released after the last that is over, and before they are saved."""
        following = (self.report.round if self.report else self.round_offset) + 1
        return int(following <= self.schedule.total and self.schedule.phase(following) is Phase.GLOBAL)

    def _current(self) -> RoundReport:
        if self.report is None:
            raise RunError("configure_train has not been called for this round.")
        return self.report

    def _able(self, message_type: str) -> list[str]:
        """Return the expected sites less those known to have no function for a message; these are booked."""
        able = self._abilities.able(self._expected, message_type)
        self._current().dropped += [(site, f"has no {message_type}") for site in self._expected if site not in able]
        self._expected = able
        return able

    def _book(self, screened: Screened, message_type: str) -> None:
        """Take replies into the round's report, log those that were dropped, and learn who has no such function."""
        self._current().take(screened)
        self._abilities.learn(screened.dropped, message_type)
        for site, reason in screened.dropped:
            _details.log(INFO, "\t> No usable reply to %s from %s: %s", message_type, site, reason)

    def _scores(self, site: str, metrics: MetricRecord) -> SiteScores:
        """Read a site's scores; raises BadReplyError."""
        description = self.roster.descriptions[site]
        # A site that does not tell how many test images it has is held, loosely, to its number of training images.
        described = 0 if description is None else description.test_examples or 50 * description.num_examples
        return check_scores(metrics, self.weighted_by_key, self.num_classes, described)

    def _means(self, metrics: list[MetricRecord]) -> MetricRecord | None:
        """Average what sites send instead of counts, as FedAvg does."""
        means = weighted_means(metrics, self.weighted_by_key)
        if means and not self._told_of_means:
            self._told_of_means = True
            logger.log(WARNING, "The sites send no counts of correct and total predictions but %s: means are reported, "
                       "weighted by %s; classes and personalized models are unknown.",
                       listed(sorted(means)), self.weighted_by_key)  # fmt: skip
        self._current().means = means
        return MetricRecord(dict(means)) if means else None

    def _see_purification(self, metrics: Mapping[str, float]) -> None:
        """Say once when clients do not seem to do what this strategy is named after."""
        if self._tells_of_purification and "conflict" not in metrics:
            logger.log(WARNING, "No site reports the metric \"conflict\": either the clients do not purify their "
                       "gradients, and global rounds are those of %s alone, or they keep it to themselves. In a torch "
                       "client, fedpurel_app.functional.purified_step does it.", type(self.inner).__name__)  # fmt: skip
        self._tells_of_purification = False

    def _address(
        self,
        sites: list[str],
        arrays: ArrayRecord,
        config: ConfigRecord,
        instruction: Instruction,
        message_type: str,
    ) -> list[Message]:
        """Make one message for each site; it names the private branch that the server knows of.

        The user's own settings and Flower's ``server-round`` are in it, as in those of an inner strategy.
        """
        messages = []
        for site in sites:
            node = self.roster.node(site)
            if node is None:
                continue
            own = Instruction(**{**vars(instruction), "private_round": self.private_rounds.get(site, 0)})
            told = ConfigRecord({**config, "server-round": own.round, **own.to_config()})
            messages.append(Message(RecordDict({ARRAYS: arrays, CONFIG: told}), node, message_type))
        self._current().bytes_down += sum(size_of(message) for message in messages)
        return messages

    def _with_private_round(self, message: Message) -> Message:
        """Name the private state that the server knows of in an inner strategy's message, the same for all sites."""
        node = message.metadata.dst_node_id
        stamp = self.private_rounds.get(self.roster.site(node) or "", 0)
        records = {
            name: ConfigRecord({**record, "private-round": stamp}) if isinstance(record, ConfigRecord) else record
            for name, record in message.content.items()
        }
        return Message(RecordDict(records), node, message.metadata.message_type)

    def _check_privacy(self, content: RecordDict, site: str) -> None:
        """Raise BadReplyError when a client did not do its part."""
        record = content.config_records.get(PRIVACY)
        said = record.get(PRIVACY_MOD) if record else None
        if self.required_mod and said != self.required_mod:
            self._without_mod.add(site)
            raise BadReplyError(f'{_NO_MOD}: expected "{self.required_mod}", the reply says {said!r}')
        if self.clipping is not None:
            self.clipping.check(content, self._sent)

    def _aggregate(self, messages: list[Message], metric_names: list[str]) -> ArrayRecord | None:
        """Let the inner strategy aggregate; what it refuses costs the round, not the run."""
        report, clipping = self._current(), self.clipping
        replies = [uniform(message, metric_names, self.weighted_by_key if clipping else "") for message in messages]
        if clipping is not None:
            clipping.expect(len(replies))
            report.privacy = {"clipping_norm": clipping.norm}
        try:
            refuse_idle(self.inner, len(replies))
            arrays, _ = self.inner.aggregate_train(report.round, replies)
            arrays = None if arrays is None else as_sent(arrays, self._sent)
        except Exception as error:
            logger.log(WARNING, "%s failed on round %d", type(self.inner).__name__, report.round, exc_info=True)
            report.dropped.append(("server", f"{type(self.inner).__name__}: {error}"))
            arrays = None
        if clipping is not None:
            report.privacy |= clipping.facts()
        report.kept_old_model = arrays is None
        return arrays
