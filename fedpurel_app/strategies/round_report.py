"""What the strategy knows of a round when it is over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import MetricRecord

from fedpurel_app.core.phase import Phase
from fedpurel_app.core.records import FEATURE_SECONDS, RESTARTED, SECONDS, WORKER
from fedpurel_app.core.site_scores import SiteScores
from fedpurel_app.strategies.replies import ScreenedReplies


@dataclass
class RoundReport:
    """One round, filled in as it goes on.

    Attributes
    ----------
    round : int
        Round of the schedule, from 1.
    phase : Phase
    cohort : list of str
        Sites drawn, sorted.
    usable : list of str
        Sites whose replies were used, sorted.
    dropped : list of (str, str)
        Site and reason of every reply that was missing or could not be used, of training and evaluation alike.
    kept_old_model : bool
        Whether there were fewer usable replies than the quorum, so that nothing changed.
    train : dict of str to float
        Means of the sites' training metrics, weighted by their numbers of examples.
    scores : dict of str to SiteScores, or None
        By site, where this round was evaluated.
    validation : dict of str to SiteScores
        Likewise on the sites' validation parts, of those that have one and tell.
    withheld : list of str
        Sites whose own settings kept their scores.
    restarted : list of str
        Sites whose private branch was lost, so that they began a fresh one or had none to score.
    privacy : dict of str to float
        In a global round with clipping: ``clipping_norm``; where Flower accounts for it, also ``epsilon``, ``delta``
        and the number of ``releases`` so far.
    trust : dict of str to float
        By site, the factor of its reply's weight in the mean, where the server weighs replies.
    part : dict
        What the method's part at the server tells of a global round, as JSON.
    means : dict of str to float
        Means of what the sites sent in evaluation where none sent counts, weighted by their numbers of examples.
    bytes_down, bytes_up : int
        Size of the arrays and metrics sent to and received from sites.
    seconds : dict of str to float
        Wall time of "training" and "evaluation"; with "_at_sites" the part that the busiest process of the sites
        worked, with "_features" the part of that which went into encoding images.
    """

    round: int
    phase: Phase
    cohort: list[str]
    usable: list[str] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    kept_old_model: bool = False
    train: dict[str, float] = field(default_factory=dict)
    scores: dict[str, SiteScores] | None = None
    validation: dict[str, SiteScores] = field(default_factory=dict)
    withheld: list[str] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    privacy: dict[str, float] = field(default_factory=dict)
    trust: dict[str, float] = field(default_factory=dict)
    part: dict[str, Any] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def take(self, screened: ScreenedReplies) -> None:
        """Book the replies that were dropped, the bytes of all, and who lost a private branch."""
        lost = {site for site, record in screened.metrics.items() if record.get(RESTARTED)}
        self.restarted = sorted(lost.union(self.restarted))
        self.dropped += screened.dropped
        self.bytes_up += screened.bytes_received

    def keep_time(self, part: str, wall: float, metrics: Mapping[str, MetricRecord]) -> None:
        """Book wall seconds, and the busiest process's own time in it: the rest is transport and waiting."""
        self.seconds[part] = wall
        for suffix, key in (("at_sites", SECONDS), ("features", FEATURE_SECONDS)):
            busy: defaultdict[object, float] = defaultdict(float)
            for site, record in metrics.items():  # a real site is a machine of its own, and names no process
                busy[record.get(WORKER, site)] += float(record.get(key, 0.0))  # type: ignore[arg-type]  # screened
            self.seconds[f"{part}_{suffix}"] = max(busy.values(), default=0.0)

    def why_it_failed(self, needed: int, in_a_row: int) -> str:
        """Say what was missing in the round that ended a run."""
        reasons = sorted({f"{site}: {reason}" for site, reason in self.dropped})
        return (
            f"Round {self.round}: {len(self.usable)} of {len(self.cohort)} sites gave a usable reply, {needed} are "
            f"needed, and this was round {in_a_row} in a row. "
            f"Reasons: {'; '.join(reasons[:5])}{' ...' if len(reasons) > 5 else ''}"
        )
