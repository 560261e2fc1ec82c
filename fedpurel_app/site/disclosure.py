"""What of a site's numbers leaves it. Its own settings decide; the run can ask for less, never for more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedpurel_app.config import NodeConfig
from fedpurel_app.core.metrics import ClassCounts
from fedpurel_app.core.records import FEATURE_SECONDS, NUM_EXAMPLES, SECONDS, WITHHELD, counts_to_metrics

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Disclosure:
    """The rules of one site.

    Attributes
    ----------
    node : NodeConfig
    trusted : bool
        The site exists in a simulation on its user's own machine: nothing leaves anything.
    by_class : bool
        Whether the run asks for counts by class, and the node lets them leave.
    """

    node: NodeConfig
    trusted: bool
    by_class: bool

    def training(self, metrics: Mapping[str, float], is_private: bool) -> Metrics:
        """Return the metrics of a visit that leave the site.

        Parameters
        ----------
        metrics : mapping of str to float
            Means over the steps of the visit.
        is_private : bool
            The visit trained, or ran on, what the site keeps to itself. Every such number is a function of the private
            part and of parameters that the server chose: asked cleverly and often enough, it tells all of that part.
        """
        if self.trusted or (self.node.metrics == "full" and not is_private):
            return dict(metrics)
        return {}

    def times(self, seconds: float, feature_seconds: float) -> Metrics:
        """Return how long a message took; of a real site to a tenth of a second."""
        if self.trusted:
            return {SECONDS: seconds, FEATURE_SECONDS: feature_seconds}
        return {SECONDS: round(seconds, 1), FEATURE_SECONDS: round(feature_seconds, 1)}

    def scores(self, counts: Mapping[str, ClassCounts], global_is_private: bool = False) -> Metrics:
        """Return what an evaluation tells: counts by class or in all, rounded, or that they are withheld.

        Parameters
        ----------
        counts : mapping of str to ClassCounts
            By model; totals are equal.
        global_is_private : bool
            The global model of this site holds parts that it keeps: its score tells of them.
        """
        if not self.trusted:
            if global_is_private and self.node.scores == "global":
                return {WITHHELD: 1}
            if self.tells_no_scores or int(counts["global"].total.sum()) < self.node.min_test_images:
                return {WITHHELD: 1}
            told = [model for model in counts if model != "personalized" or self.node.scores != "global"]
            counts = {model: self._rounded(counts[model]) for model in told}
        number = int(counts["global"].total.sum())
        if not number:
            return {WITHHELD: 1}
        metrics: Metrics = {NUM_EXAMPLES: number}
        for model, one in counts.items():
            metrics |= counts_to_metrics(model, one, self.by_class)
        return metrics

    @property
    def tells_no_scores(self) -> bool:
        """Whether no evaluation of this site ever leaves it."""
        return not self.trusted and self.node.scores == "none"

    def _rounded(self, counts: ClassCounts) -> ClassCounts:
        """Round to multiples, by class or in all as they will leave; what is right stays at most the total."""
        step = self.node.round_scores
        one = counts if self.by_class else counts.over_classes()
        return ClassCounts(*(step * ((part + step // 2) // step) for part in (one.correct, one.total)))


def shares_class_counts(node: NodeConfig, asked: bool | str, trusted: bool) -> bool:
    """Tell whether counts by class leave a site.

    Parameters
    ----------
    node : NodeConfig
    asked : bool or "auto"
        ``share-class-counts`` of the run.
    trusted : bool
        Whether the site is simulated.
    """
    wanted = trusted if asked == "auto" else bool(asked)
    return wanted and node.share_class_counts and (trusted or node.scores == "full")
