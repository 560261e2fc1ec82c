"""What of a site's numbers leaves it. Its own settings decide; the run can ask for less, never for more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedpurel_app.config import NodeConfig
from fedpurel_app.core.calibration import UNIT
from fedpurel_app.core.detail_records import details_to_metrics
from fedpurel_app.core.details import Details
from fedpurel_app.core.fronts import Front, Ints, front_to_metrics
from fedpurel_app.core.metrics import ClassCounts
from fedpurel_app.core.records import FEATURE_SECONDS, NUM_EXAMPLES, SECONDS, VALIDATION, WITHHELD, counts_to_metrics
from fedpurel_app.core.site_scores import BEFORE, SiteScores

Metrics = dict[str, Any]
_COARSE = UNIT // 16  # sums of confidence and of losses leave a real site in sixteenths


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

    def training(self, metrics: Mapping[str, Any], is_private: bool) -> Metrics:
        """Return the metrics of a visit that leave the site.

        Parameters
        ----------
        metrics : mapping of str to float or list of float
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

    def scores(self, scores: SiteScores | None, global_is_private: bool = False) -> Metrics:
        """Return what an evaluation tells: counts by class or in all, rounded, or that they are withheld.

        Parameters
        ----------
        scores : SiteScores or None
            Totals of its models are equal. None where this site told before that it keeps them.
        global_is_private : bool
            The global model of this site holds parts that it keeps: its score tells of them.
        """
        if scores is None:
            return {WITHHELD: 1}
        number = int(scores.counts["global"].total.sum())
        if not self.trusted:
            if global_is_private and self.node.scores == "global":
                return {WITHHELD: 1}
            if self.tells_no_scores or number < self.node.min_test_images:
                return {WITHHELD: 1}
            scores = self._told(scores, global_is_private)
            number = int(scores.counts["global"].total.sum())
        if not number:
            return {WITHHELD: 1}
        metrics: Metrics = {NUM_EXAMPLES: number}
        for model, one in scores.counts.items():
            metrics |= counts_to_metrics(model, one, self.by_class)
            details = scores.details.get(model, Details())
            metrics |= details_to_metrics(
                model, details if self.by_class else details.totals(), scores.both_right.get(model)
            )
        return metrics

    def validation(self, scores: SiteScores, global_is_private: bool = False) -> Metrics:
        """Return what an evaluation tells of the validation part: by the rules of :meth:`scores`, nothing if withheld.

        Parameters
        ----------
        scores, global_is_private
            As of :meth:`scores`.
        """
        told = self.scores(scores, global_is_private)
        return {} if WITHHELD in told else {f"{VALIDATION}{name}": value for name, value in told.items()}

    def front(self, front: Front, total: Ints) -> Metrics:
        """Return what leaves of a front: as of the personalized model's counts, by class or in all, rounded.

        Parameters
        ----------
        front : Front
        total : ndarray of int64, shape (C,)
            Test images by class.
        """
        if self.trusted:
            return dict(front_to_metrics(front))
        if self.node.scores in ("global", "none"):
            return {}
        told = front if self.by_class else front.totals()
        images = self._rounded(ClassCounts(total, total)).total.sum()
        step = self.node.round_scores
        correct, agree = (step * ((part + step // 2) // step) for part in (told.correct, told.agree))
        return dict(front_to_metrics(Front(correct, np.minimum(agree, images))))

    @property
    def tells_no_scores(self) -> bool:
        """Whether no evaluation of this site ever leaves it."""
        return not self.trusted and self.node.scores == "none"

    def _told(self, scores: SiteScores, global_is_private: bool) -> SiteScores:
        """Return what of the scores leaves a real site, rounded."""
        models = [model for model in scores.counts if model != "personalized" or self.node.scores != "global"]
        counts = {model: self._rounded(scores.counts[model]) for model in models}
        # Confidences and losses say more of what they are computed with than right answers do.
        kept = {"personalized", "global"} if global_is_private else {"personalized"}
        details = {
            model: self._coarse(scores.details[model], model in kept) for model in models if model in scores.details
        }
        both = {
            model: _both(self._nearest(both), counts[BEFORE[model]], counts[model])
            for model, both in scores.both_right.items()
            if model in models
        }
        return SiteScores(counts, "personalized" in counts, details, both)

    def _coarse(self, details: Details, is_private: bool) -> Details:
        """Cut what is told beside counts to what this node lets leave of a model."""
        told = self.node.calibration == "full" or (self.node.calibration == "global" and not is_private)
        if self.node.round_scores > 1:
            # What must add up would not, and rounding would add to the calibration error, a sum of absolute values.
            loss = None if details.nll is None or not told else self._nearest(details.nll, UNIT)
            return Details(nll=loss)
        bins, loss = (details.bins, details.nll) if told else (None, None)
        return replace(
            details,
            bins=None if bins is None else bins.coarse(_COARSE),
            nll=None if loss is None else _COARSE * ((loss + _COARSE // 2) // _COARSE),
        )

    def _nearest(self, number: int, unit: int = 1) -> int:
        """Round to a multiple of what scores are rounded to."""
        step = self.node.round_scores * unit
        return step * ((number + step // 2) // step)

    def _rounded(self, counts: ClassCounts) -> ClassCounts:
        """Round to multiples, by class or in all as they will leave; what is right stays at most the total."""
        step = self.node.round_scores
        one = counts if self.by_class else counts.over_classes()
        return ClassCounts(*(step * ((part + step // 2) // step) for part in (one.correct, one.total)))


def _both(number: int, before: ClassCounts, after: ClassCounts) -> int:
    """Return how many images both got right, within what rounded counts allow."""
    first, second, total = (int(part.sum()) for part in (before.correct, after.correct, after.total))
    return min(max(number, first + second - total, 0), first, second)


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
