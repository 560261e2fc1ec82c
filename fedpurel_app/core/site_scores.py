"""What sites scored on their own test parts, and the exact pool of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.metrics import ClassCounts, pool, summarize


@dataclass(frozen=True)
class SiteScores:
    """What a site scored on its own test part.

    Attributes
    ----------
    counts : dict of str to ClassCounts
        For "zero-shot", "global" and, where the site has a private branch, "personalized".
    has_private_branch : bool
        False: the site never trained one, and its personalized model is the global one.
    """

    counts: dict[str, ClassCounts]
    has_private_branch: bool

    @property
    def personalized(self) -> ClassCounts:
        """Counts of the personalized model."""
        return self.counts["personalized"] if self.has_private_branch else self.counts["global"]


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
        the sites, ``pooled`` = accuracy over all test images, and ``many``, ``medium``, ``few``, ``balancedness`` from
        the pooled class counts; in percent. Where some of the sites did not score a model, ``sites`` = how many did;
        where some sent totals, ``sites_by_class`` = how many sent class counts. None for a model that fewer than half
        of the sites scored.
    """
    names = {"zero_shot": "zero-shot", "global": "global", "personalized": "personalized"}
    result: dict[str, dict[str, float | None] | None] = {}
    for key, model in names.items():
        counts = [site.personalized if model == "personalized" else site.counts.get(model) for site in scores.values()]
        known = [one for one in counts if one is not None]
        if not known or 2 * len(known) < len(counts):
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
        if len(known) < len(counts):
            summary["sites"] = len(known)
        if by_class and len(by_class) < len(known):
            summary["sites_by_class"] = len(by_class)
        result[key] = summary
    return result


def class_counts(counts: Sequence[ClassCounts], classes: int | None) -> list[ClassCounts]:
    """Return those counts that are by class; none where most sites sent totals, whose classes nobody knows."""
    by_class = [one for one in counts if classes is not None and len(one.total) == classes]
    return by_class if 2 * len(by_class) >= len(counts) else []
