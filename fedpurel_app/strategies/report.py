"""What the strategy knows of a round when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedpurel_app.strategies.pooling import SiteScores
from fedpurel_app.strategies.schedule import Phase


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
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
