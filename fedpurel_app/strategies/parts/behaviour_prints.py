"""What sites' visits do to logits on public probes, averaged over the visits of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.records import Arrays
from fedpurel_app.strategies.parts.base import Behave, Reply
from fedpurel_app.strategies.parts.behaviour_distance import Floats

_LARGEST = 1e30  # number that is taken for one


@dataclass(frozen=True)
class Prints:
    """Prints of sites.

    Attributes
    ----------
    means : mapping of str to ndarray of float32
        By site.
    visits : mapping of str to int
        How many each is the mean of.
    """

    means: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    visits: Mapping[str, int] = field(default_factory=dict)

    def seen(self, replies: Mapping[str, Reply], behave: Behave, printed: Callable[[str, Floats], Floats]) -> Prints:
        """Return them with one visit more of each site that replies; what is not finite says nothing.

        Parameters
        ----------
        replies : mapping of str to Reply
        behave : callable
            From the shared parameters to logits on public probes, shape (Q, C).
        printed : callable
            From a site and the logits of its reply to the print of this visit; of all sites of one shape.
        """
        means, visits = dict(self.means), dict(self.visits)
        for site, reply in replies.items():
            with np.errstate(all="ignore"):
                new = printed(site, np.asarray(behave(reply.arrays), np.float64))
            if not (np.isfinite(new).all() and np.abs(new).max(initial=0) < _LARGEST):
                continue
            count = visits[site] = visits.get(site, 0) + 1
            old = means.get(site, np.zeros_like(new))
            means[site] = (old + (new - old) / count).astype(np.float32)
        return Prints(means, visits)

    def state(self) -> Arrays:
        """Return ``print/<site>`` and ``visits/<site>``."""
        return {
            **{f"print/{site}": value for site, value in self.means.items()},
            **{f"visits/{site}": np.array([value]) for site, value in self.visits.items()},
        }

    @classmethod
    def of(cls, state: Mapping[str, npt.NDArray[Any]]) -> Prints:
        """Take up a saved state, whatever else is in it."""
        found: dict[str, dict[str, npt.NDArray[Any]]] = {"print": {}, "visits": {}}
        for key, value in state.items():
            kind, _, site = key.partition("/")
            if kind in found:
                found[kind][site] = value
        return cls(found["print"], {site: int(value[0]) for site, value in found["visits"].items()})
