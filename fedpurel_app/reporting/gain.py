"""What a branch of a site's own is worth on the site's test part: a sentence, and a small table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedpurel_app.core.intervals import paired_difference
from fedpurel_app.core.site_scores import SiteScores
from fedpurel_app.reporting.columns import ACCURACIES, number

_TITLES = {"zero_shot": "zero-shot", "global": "global model", "personalized": "personalized"}


def gain_lines(site: str, scores: SiteScores, pooled: Mapping[str, Any]) -> list[str]:
    """Print what the personalized model of one site has over the global one.

    Parameters
    ----------
    site : str
    scores : SiteScores
        With counts of the global and of the personalized model.
    pooled : mapping
        The same scores as :func:`~fedpurel_app.core.site_scores.pool_sites` gives them, in percent.

    Returns
    -------
    list of str
        The gain in points with its 95 % interval over the test images, and the scores of all models. A dash stands for
        a group of classes without a test image, or groups that the run did not know.
    """
    before, after = (scores.counts[name] for name in ("global", "personalized"))
    images, shares = int(after.total.sum()), [100 * (one.accuracy or 0.0) for one in (before, after)]
    told = scores.gain("personalized")
    ends = paired_difference(*told) if told else None
    interval = f" (95 % interval {100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})" if ends else ""
    lines = [
        f"{site}: with a branch of its own {shares[1]:.1f} % of {images} test images are right, {shares[0]:.1f} % with "
        f"the global model: {shares[1] - shares[0]:+.1f} points{interval}.",
        f"{'':<14}" + "".join(f"{name:>{_width(name)}}" for name in ACCURACIES),
    ]
    for key, title in _TITLES.items():
        if found := pooled.get(key):
            cells = (f"{number(found.get(name)):>{_width(name)}}" for name in ACCURACIES)
            lines.append(f"{title:<14}" + "".join(cells))
    return lines


def _width(name: str) -> int:
    return max(8, len(name) + 2)
