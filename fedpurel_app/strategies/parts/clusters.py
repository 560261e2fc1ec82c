"""CAPT's clusters of sites, and the bandit that lets them exchange: see :mod:`fedpurel_app.algorithms.capt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.records import Arrays
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies.parts.base import Part, Reply
from fedpurel_app.strategies.parts.linkage import Floats, grouped
from fedpurel_app.strategies.parts.pair_bandit import UNKNOWN, PairBandit

_NAME = "classes"  # of the parameter that clusters average


def cluster(shares: Floats, most: int) -> npt.NDArray[np.int64]:
    """Group rows of class shares by average linkage of their total variation distance.

    Parameters
    ----------
    shares : ndarray, shape (K, C)
        Rows that add up to 1.
    most : int
        Largest number of groups.

    Returns
    -------
    ndarray of int64, shape (K,)
        Numbers from 0, in the order of first appearance.
    """
    from scipy.spatial.distance import pdist  # half a second that other methods need not wait

    return grouped(pdist(shares / 2, "cityblock"), len(shares), most)


class Clusters(Part):
    """Average the prompts of classes within clusters of sites, and across two of them, one exchange at a time.

    Clusters are found among the sites that are met before the first round; one that comes later joins that of the site
    whose shares are nearest. A site that tells no counts is in the first cluster. Where there are no more sites than
    clusters, every site is one.
    """

    def __init__(self, options: Mapping[str, Any], sgd: SgdSettings) -> None:
        super().__init__(options, sgd)
        most = options["clusters"]
        self._of: dict[str, int] = {}  # cluster by site
        self._shares: dict[str, Floats] = {}
        self._prompts: dict[int, npt.NDArray[Any]] = {}  # by cluster
        self._losses, self._bandit = np.full(most, UNKNOWN), PairBandit(most)

    def meet(self, sent: Arrays, counts: Mapping[str, Sequence[int]]) -> None:
        """Give every site its cluster; counts of another number of classes are none."""
        told = {site: count for site, count in sorted(counts.items()) if len(count) == len(sent[_NAME]) and any(count)}
        new = {site: np.array(count, float) / sum(count) for site, count in told.items() if site not in self._shares}
        shares = self._shares | new
        if new and not self._prompts:  # nobody has trained yet
            groups = cluster(np.stack(list(shares.values())), len(self._losses))
            self._of |= dict(zip(shares, groups.tolist(), strict=True))
        elif new:
            for site, share in new.items():
                near = min(
                    self._shares, key=lambda other: (np.abs(self._shares[other] - share).sum(), other), default=""
                )
                self._of[site] = self._of.get(near, 0)
        self._shares = shares

    def brief(self, sent: Arrays, site: str) -> Arrays:
        """Return the prompts of the site's cluster; of one that never trained, those of all."""
        return {_NAME: self._prompts.get(self._of.get(site, 0), sent[_NAME])}

    def finish(self, sent: Arrays, mean: Arrays, replies: Mapping[str, Reply], examples: int) -> Arrays:
        """Average within clusters, then across the two that the bandit chose; leave the mean as it is."""
        prompts, losses = dict(self._prompts), self._losses.copy()
        trained = sorted({self._of.get(site, 0) for site in replies})
        for number in trained:
            members = [reply for site, reply in replies.items() if self._of.get(site, 0) == number]
            weights = np.array([reply.factor * reply.examples for reply in members])
            stack = np.stack([reply.arrays[_NAME] for reply in members]).astype(float)
            if weights.any():
                prompts[number] = np.average(stack, 0, weights).astype(sent[_NAME].dtype)
            told = [reply.loss for reply in members if reply.loss is not None]
            losses[number] = np.mean(told) if told else UNKNOWN
        bandit = self._bandit.copy()
        bandit.judge({number: (self._losses[number], losses[number]) for number in trained})
        if (pair := bandit.choose(sorted(prompts))) is not None:
            both = np.stack([prompts[number] for number in pair]).astype(float)
            prompts[pair[0]] = prompts[pair[1]] = both.mean(0).astype(sent[_NAME].dtype)
            if (losses[list(pair)] == UNKNOWN).any():
                bandit.give_up()
        self._prompts, self._losses, self._bandit = prompts, losses, bandit
        return mean

    def state(self) -> Arrays:
        """Return clusters by site, class shares, prompts, losses and what the bandit knows."""
        return {
            **{f"of/{site}": np.array([number]) for site, number in self._of.items()},
            **{f"shares/{site}": share for site, share in self._shares.items()},
            **{f"prompts/{number}": value for number, value in self._prompts.items()},
            "losses": self._losses,
            "bandit": self._bandit.state(),
        }

    def restore(self, state: Arrays) -> None:
        """Take up a saved state."""
        if not state:
            return
        parts: dict[str, dict[str, npt.NDArray[Any]]] = {"of": {}, "shares": {}, "prompts": {}}
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if name:
                parts[kind][name] = value
        self._of = {site: int(value[0]) for site, value in parts["of"].items()}
        self._shares = parts["shares"]
        self._prompts = {int(number): value for number, value in parts["prompts"].items()}
        self._losses, self._bandit = state["losses"], PairBandit.of(state["bandit"])


PART = Clusters
