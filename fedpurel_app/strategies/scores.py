"""What a site scored, as the strategy passes it on."""

from __future__ import annotations

from dataclasses import dataclass

from fedpurel_app.metrics import ClassCounts


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
