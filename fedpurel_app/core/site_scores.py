"""What sites scored on their own test parts, and the exact pool of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.details import Details, detail_scores
from fedpurel_app.core.fronts import Front
from fedpurel_app.core.metrics import ClassCounts, pool, summarize

BEFORE = {"global": "zero-shot", "personalized": "global"}  # what each model is compared with


@dataclass(frozen=True)
class SiteScores:
    """What a site scored on its own test part.

    Attributes
    ----------
    counts : dict of str to ClassCounts
        For "zero-shot", "global" and, where the site has a private branch, "personalized".
    has_private_branch : bool
        False: the site never trained one, and its personalized model is the global one.
    details : dict of str to Details
        What the site told beside counts, by model.
    both_right : dict of str to int
        For "global" how many images it and zero-shot both got right, for "personalized" it and the global model.
    front : Front or None
        Of a method that is asked for a preference, in a run's last evaluation.
    """

    counts: dict[str, ClassCounts]
    has_private_branch: bool
    details: dict[str, Details] = field(default_factory=dict)
    both_right: dict[str, int] = field(default_factory=dict)
    front: Front | None = None

    @property
    def personalized(self) -> ClassCounts:
        """Counts of the personalized model."""
        return self.counts[self.name_of("personalized")]

    def name_of(self, model: str) -> str:
        """Return whose scores are those of a model: without a private branch, the personalized is the global one."""
        return "global" if model == "personalized" and not self.has_private_branch else model

    def scored(self, model: str) -> tuple[ClassCounts, Details | None] | None:
        """Return counts and details of a model; None where the site did not score it."""
        name = self.name_of(model)
        return (self.counts[name], self.details.get(name)) if name in self.counts else None

    def require(self) -> None:
        """Raise ValueError unless what is told beside counts can belong to them."""
        for model, details in self.details.items():
            details.require(self.counts[model])
        for model, both in self.both_right.items():
            before, after = (int(self.counts[name].correct.sum()) for name in (BEFORE[model], model))
            total = int(self.counts[model].total.sum())
            if not max(0, before + after - total) <= both <= min(before, after):
                raise ValueError(f"{model}: {both} images right with {BEFORE[model]}, of {after} and {before} right")

    def gain(self, model: str) -> tuple[int, int, int] | None:
        """Compare a model with the one before it: "personalized" with "global", or that with "zero-shot".

        Returns
        -------
        (int, int, int) or None
            Images that the one before alone got right, those that the model alone did, and all; None where the site
            did not tell.
        """
        if (both := self.both_right.get(model)) is None:
            return None
        before, after = (int(self.counts[name].correct.sum()) for name in (BEFORE[model], model))
        return before - both, after - both, int(self.counts[model].total.sum())


def pool_sites(
    scores: Mapping[str, SiteScores],
    groups: Mapping[str, npt.NDArray[np.int64]] | None,
    power: float,
    sigma: float,
    classes: int | None = None,
) -> dict[str, dict[str, float | None] | None]:
    """Pool the scores of all sites on their own test parts.

    Parameters
    ----------
    scores : mapping of str to SiteScores
    groups : mapping of str to ndarray of int64, or None
        Class indices of "many", "medium", "few".
    power, sigma : float
        Of Balancedness.
    classes : int, optional
        Number of classes; groups and Balancedness are None when most sites sent totals instead of class counts.

    Returns
    -------
    dict
        For "zero_shot", "global" and "personalized": ``all`` = mean over the sites of their accuracies, ``sd`` over
        the sites, ``worst_site``, ``pooled`` = accuracy over all test images, ``many``, ``medium``, ``few``,
        ``worst_class`` and ``balancedness`` from the pooled class counts, and what :func:`detail_scores` pools; in
        percent. Where some of the sites did not score a model, ``sites`` = how many did; where some sent totals,
        ``sites_by_class`` = how many sent class counts; where some kept their confidences, ``sites_calibrated``. None
        for a model that fewer than half of the sites scored.
    """
    names = {"zero_shot": "zero-shot", "global": "global", "personalized": "personalized"}
    result: dict[str, dict[str, float | None] | None] = {}
    for key, model in names.items():
        scored = scored_by(scores.values(), model)
        known = [counts for counts, _ in scored]
        if not known or 2 * len(known) < len(scores):
            result[key] = None
            continue
        accuracies = [100 * one.accuracy for one in known if one.accuracy is not None]
        by_class = class_counts(known, classes)
        over_all = pool(one.over_classes() for one in known) or ClassCounts.zeros(1)
        summary = summarize(pool(by_class) or over_all, groups if by_class else None, power, sigma)
        if not by_class:
            summary = dict.fromkeys(summary)  # of totals, no score of classes is known
        summary["pooled"] = None if over_all.accuracy is None else 100 * over_all.accuracy
        summary["all"] = float(np.mean(accuracies)) if accuracies else None
        summary["sd"] = float(np.std(accuracies)) if accuracies else None
        summary["worst_site"] = min(accuracies, default=None)
        summary |= detail_scores(scored, classes)
        if len(known) < len(scores):
            summary["sites"] = len(known)
        if by_class and len(by_class) < len(known):
            summary["sites_by_class"] = len(by_class)
        calibrated = sum(details is not None and details.bins is not None for _, details in scored)
        if summary["ece"] is not None and calibrated < len(known):
            summary["sites_calibrated"] = calibrated
        result[key] = summary
    return result


def scored_by(sites: Collection[SiteScores], model: str) -> list[tuple[ClassCounts, Details | None]]:
    """Return counts and details of a model from the sites that scored it; no details where most keep them."""
    scored = [pair for site in sites if (pair := site.scored(model)) is not None]
    if model == "personalized" and not _most_tell(sites):
        return [(counts, None) for counts, _ in scored]
    return scored


def _most_tell(sites: Iterable[SiteScores]) -> bool:
    """Tell whether most sites with a private branch tell its model's confidences: the others stand for none of them."""
    told = ["personalized" in site.details for site in sites if site.has_private_branch]
    return 2 * sum(told) >= len(told)


def class_counts(counts: Sequence[ClassCounts], classes: int | None) -> list[ClassCounts]:
    """Return those counts that are by class; none where most sites sent totals, whose classes nobody knows."""
    by_class = [one for one in counts if classes is not None and len(one.total) == classes]
    return by_class if 2 * len(by_class) >= len(counts) else []
