"""The FedPuReL strategy: seeded cohorts, any inner strategy for the global rounds, private branches in the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from logging import INFO, getLogger
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from fedpurel_app.compression import Codec
from fedpurel_app.core.errors import RunError
from fedpurel_app.core.layout import Layout
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.records import NUM_EXAMPLES
from fedpurel_app.strategies.evaluation import Evaluation
from fedpurel_app.strategies.global_round import GlobalRound
from fedpurel_app.strategies.inner_checks import refuse_idle, refuse_sampling
from fedpurel_app.strategies.legacy_clients import Abilities
from fedpurel_app.strategies.parts import Part
from fedpurel_app.strategies.post import Post
from fedpurel_app.strategies.privacy import Clipping, outlook
from fedpurel_app.strategies.quorum import Quorum
from fedpurel_app.strategies.roster import Roster
from fedpurel_app.strategies.round_report import RoundReport
from fedpurel_app.strategies.rounds import EvaluationRound, PersonalRound, Round
from fedpurel_app.strategies.schedule import Schedule
from fedpurel_app.strategies.sites import Sites

logger = getLogger("flwr.fedpurel.strategy")


class FedPuReL(Strategy):
    """Run global rounds through an inner strategy and personal rounds without aggregation, over named sites.

    Works with any Flower ClientApp that honours the contract; nothing here knows of models or of torch.

    Parameters
    ----------
    schedule : Schedule
        Which round does what.
    inner : Strategy, optional
        What aggregates global rounds; by default FedAvg weighted by numbers of examples. It sees only the cohort, so
        construct it with ``fraction_train=1.0`` and minimum numbers of nodes that a cohort can meet. What changes under
        one that clips says :class:`fedpurel_app.strategies.privacy.Clipping`.
    fraction_train : float
        Share of the sites in a cohort, (0, 1].
    seed : int
        Fixes the cohorts over site names, whatever node ids Flower deals out.
    full_first_round : bool
        Let all sites train in the first round of each phase.
    min_replies : int
        Usable replies below which a global round keeps the old model; a personal round then counts as failed, too.
    max_failed_rounds : int
        Such rounds in a row that end the run.
    keeps_state : bool
        Sites write private state in global rounds, too: a part of the global model, or what the method remembers.
    evaluate_every : int
        Rounds of a phase between evaluations at all sites; a phase's last round always is one.
    num_sites : int
        Sites to wait for before the first round; 0 = go on with those that are there.
    connect_timeout, query_timeout : float
        Seconds to wait for them, and for their descriptions.
    experiment_id : str
        Names the private branches of this experiment; the same in a resumed run.
    simulation_dir : str
        Folder for private branches that simulated sites use; real sites never obey it.
    weighted_by_key : str
        Metric with a reply's number of examples.
    num_classes : int
        Length that lists of counts by class must have; 0 = any.
    required_mod : str
        What a reply to ``train`` must give as ``mod`` in a ConfigRecord ``privacy``; empty = nothing.
    purifies : bool
        Whether clients are meant to purify their gradients, with :func:`fedpurel_app.functional.purified_step`: one
        written for FedAvg does not. Where no reply of a global round has the metric ``conflict``, that is logged once.
    part : Part, optional
        What a method does at the server beside averaging.
    codec : Codec, optional
        What clients shorten their replies to ``train`` with.
    personal_names : collection of str
        Of the arrays, those that sites train and send in personal rounds, and no other ones; global rounds do not have
        them. By default personal rounds send nothing.
    personal_inner : Strategy, optional
        What aggregates those; by default FedAvg as in ``inner``.

    Notes
    -----
    What clients are asked, what they must answer, and how far one takes part that knows less, stands in the package's
    docstring: ``help(fedpurel_app.strategies)``. A ClientApp written for FedAvg runs unchanged; with
    ``Schedule(rounds, 0)``, ``fraction_train = 1`` and without ``min_replies`` the result is FedAvg's. ``report`` tells
    of every round who took part, what was dropped and why.

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
        keeps_state: bool = False,
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
        part: Part | None = None,
        codec: Codec | None = None,
        personal_names: Collection[str] = (),
        personal_inner: Strategy | None = None,
    ) -> None:
        if not 0 < fraction_train <= 1:
            raise ValueError(f"fraction_train = {fraction_train}: must lie in (0, 1].")
        if evaluate_every < 1:
            raise ValueError("evaluate_every must be at least 1.")
        self.schedule, self.fraction_train, self.seed = schedule, fraction_train, seed
        self.full_first_round, self.evaluate_every = full_first_round, evaluate_every
        mean = FedAvg(min_train_nodes=1, min_available_nodes=1, weighted_by_key=weighted_by_key)
        self.inner, own_inner, own_names = inner or mean, personal_inner or mean, frozenset(personal_names)
        refuse_sampling(self.inner)
        if Clipping.within(own_inner) is not None:
            raise ValueError("personal_inner clips, or adds noise: give one that does neither.")
        self.clipping = Clipping.within(self.inner)
        self.part, self.roster, self.round_offset = part, Roster(), 0
        self.report: RoundReport | None = None
        self._quorum, abilities = Quorum(min_replies, max_failed_rounds), Abilities()
        self._post = Post(self.roster, experiment_id, simulation_dir, self.layout)
        self._sites = Sites(self.roster, self._post, num_sites, connect_timeout, query_timeout)
        common = (self._post, abilities, self._quorum, weighted_by_key)
        self._rounds: dict[Phase, Round] = {
            Phase.GLOBAL: GlobalRound(
                *common, self.inner, self.clipping, required_mod, keeps_state, purifies, part, codec, own_names
            ),
            Phase.PERSONAL: PersonalRound(*common, own_inner, own_names, part),
            Phase.EVALUATION: EvaluationRound(*common),
        }
        self._evaluation = Evaluation(self._post, abilities, weighted_by_key, num_classes)

    @property
    def experiment_id(self) -> str:
        """Name of the experiment; a resumed run has that of the first."""
        return self._post.experiment_id

    @property
    def attempt(self) -> int:
        """1, and one more with every resumption."""
        return self._post.attempt

    @property
    def private_rounds(self) -> Mapping[str, int]:
        """By site, the round that wrote its newest private state."""
        return self._post.private_rounds

    def layout(self) -> Layout:
        """Return how the shared parameters are laid out now; nothing where that never changes."""
        return {} if self.part is None else self.part.layout()

    # --- sites ------------------------------------------------------------------------------------------------------

    def connect(self, grid: Grid) -> None:
        """Wait for the sites and learn their names; raises RunError when too few are there in time or willing."""
        self._sites.wait(grid, self._last)
        cohort = len(self.roster.draw(self.seed, 1, self.fraction_train))
        self._quorum.refuse_cohorts(cohort, len(self.roster.present), self.fraction_train)
        refuse_idle(self.inner, cohort)

    # --- rounds -----------------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Draw the cohort and send it the phase's work."""
        if not self.roster.descriptions:
            self.connect(grid)
        else:
            self._sites.refresh(grid, self._last)
        number = server_round + self.round_offset
        everyone = self.full_first_round and self.schedule.phase_round(number) == 1
        phase, share = self.schedule.phase(number), 1.0 if everyone else self.fraction_train
        drawn = self.roster.draw(self.seed, self.schedule.draw(number), share)
        self.report = RoundReport(number, phase, [] if phase is Phase.EVALUATION else drawn)
        return self._rounds[self.report.phase].configure(self.report, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen the replies; average the parameters in a global round, only the metrics in a personal one."""
        report = self._current()
        return self._rounds[report.phase].aggregate(report, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask all connected sites, in the rounds that are evaluated, to score their models."""
        report = self._current()
        if not self.schedule.is_evaluated(report.round, self.evaluate_every):
            return []
        return self._evaluation.configure(report, arrays, config)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Screen the scores; they are pooled from counts, exactly, by whoever reads ``report.scores``."""
        report = self._current()
        if not self.schedule.is_evaluated(report.round, self.evaluate_every):
            return None
        return self._evaluation.aggregate(report, replies)

    # --- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the arrays, as JSON.

        A clipping norm that moves and the privacy accountant are in it; what other inner strategies keep to themselves
        (moments of FedAdam) is not.
        """
        return {
            "round": self._last,
            "roster": self.roster.state(),
            "keys": self.roster.keys(),
            "failed_in_a_row": self._quorum.failed_in_a_row,
            **self._post.state(),
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
        self._quorum.failed_in_a_row = int(state["failed_in_a_row"])
        self._post.restore(state)
        self._sites.restore(state["roster"], state.get("keys"))
        if self.clipping is not None:
            self.clipping.restore(state.get("privacy", {}), self._may_be_lost)

    def privacy_outlook(self) -> str:
        """Say what the rounds that are left will have spent of the privacy."""
        return outlook(self.clipping, self.schedule.left(Phase.GLOBAL, self.round_offset))

    def summary(self) -> None:
        """Log the strategy's settings."""
        one, quorum = self.schedule, self._quorum
        lines = (
            f"├──> {one.kind}: {one.global_rounds} global and {one.personal_rounds} personal rounds, "
            f"{self.fraction_train:g} of the sites in each, seed {self.seed}",
            f"├──> Quorum: {quorum.min_replies} replies; ends after {quorum.max_failed} rounds in a row below it",
            f"└──> Global rounds through {type(self.inner).__name__}:",
        )
        for line in lines:
            logger.log(INFO, "\t%s", line)
        self.inner.summary()

    # --- parts ------------------------------------------------------------------------------------------------------

    @property
    def _last(self) -> int:
        """The last round that is over, or goes on."""
        return self.report.round if self.report else self.round_offset

    @property
    def _may_be_lost(self) -> int:
        """How many global rounds may be released after the last that is over, and before they are saved."""
        following = self._last + 1
        return int(following <= self.schedule.total and self.schedule.phase(following) is Phase.GLOBAL)

    def _current(self) -> RoundReport:
        if self.report is None:
            raise RunError("configure_train has not been called for this round.")
        return self.report
