"""Clusters of sites that run apart for some rounds, in the manner of ELSA: see :mod:`fedpurel_app.algorithms.elsa`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.records import APART, Arrays, is_finite
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies.parts.base import Behave, Part, Reply
from fedpurel_app.strategies.parts.behaviour_distance import DISTANCES, Floats, unit
from fedpurel_app.strategies.parts.behaviour_prints import Prints
from fedpurel_app.strategies.parts.linkage import grouped

Means = Mapping[str, npt.NDArray[np.float32]]


class BehaviourClusters(Part):
    """Send a site the mean of its cluster for E - 1 of E rounds, and every E-th the mean of all.

    The shared parameters stay the mean of all replies: the mean of the clusters' means, each weighed by its replies'
    images, is just that. A round that keeps the old model is played again, and counts for nothing.

    Parameters
    ----------
    options : mapping
        With ``clusters``, ``cluster-every``, ``cluster-distance``, ``edge-rounds`` and ``edge-assignment``.
    sgd : SgdSettings
        Of global rounds.
    behave : callable
        From the shared parameters to logits on public probes, shape (Q, C); not called where sites name their edges.
    """

    def __init__(self, options: Mapping[str, Any], sgd: SgdSettings, behave: Behave) -> None:
        super().__init__(options, sgd)
        self._behave, self._every, self._rounds = behave, int(options["cluster-every"]), int(options["edge-rounds"])
        self._most, self._distance = int(options["clusters"]), str(options["cluster-distance"])
        self._named = options["edge-assignment"] == "node"
        self._done = 0  # rounds that gave a model
        self._of: Mapping[str, str] = {}  # cluster by site
        self._prints = Prints()
        self._means: Mapping[str, Arrays] = {}  # by cluster; empty before a round that begins at the mean of all

    def place(self, edges: Mapping[str, str]) -> None:
        """Take sites by their own word, where that is asked for."""
        if self._named:
            self._of = dict(edges)

    def base(self, sent: Arrays, site: str) -> Arrays:
        """Return the mean of the site's cluster, or that of all: where clusters meet, or no reply made one yet."""
        return self._means.get(self._of.get(site, ""), sent)

    def brief(self, sent: Arrays, site: str) -> Arrays:
        """Return a mark where the site is sent the mean of its cluster, for it to remember that."""
        return {} if self.base(sent, site) is sent else {APART: np.ones(1, np.float32)}

    def finish(self, sent: Arrays, mean: Arrays, replies: Mapping[str, Reply], examples: int) -> Arrays:
        """Find the clusters and their means; leave the mean of all as it is."""
        prints, of, means = self._prints, dict(self._of), dict(self._means)
        if not self._named:
            zero = np.asarray(self._behave(sent), np.float64)
            prints = self._seen(sent, zero, replies)
            if self._done % self._every == 0:
                of, means = self._cut(prints.means, zero), {}
            else:
                of |= self._joining(prints.means, zero)
        means |= {
            name: found for name in sorted(set(of.values())) if (found := _average(sent, _members(of, name, replies)))
        }
        done = self._done + 1
        self._prints, self._of, self._done = prints, of, done
        self._means = means if done % self._rounds else {}
        return mean

    def _seen(self, sent: Arrays, zero: Floats, replies: Mapping[str, Reply]) -> Prints:
        """Return the prints with those of this round."""
        before: dict[str, Floats] = {}

        def printed(site: str, logits: Floats) -> Floats:
            name = self._of.get(site, "")
            if name not in before:
                base = self.base(sent, site)
                before[name] = zero if base is sent else np.asarray(self._behave(base), np.float64)
            return logits if self._distance == "gaussian" else unit(logits - before[name])

        return self._prints.seen(replies, self._behave, printed)

    def _apart(self, prints: Means, sites: Iterable[str], zero: Floats) -> Floats:
        return DISTANCES[self._distance](np.stack([prints[site].astype(np.float64) for site in sites]), zero)

    def _cut(self, prints: Means, zero: Floats) -> dict[str, str]:
        """Return the clusters by site, numbered in the order of their smallest site names."""
        sites = sorted(prints)
        if not sites:
            return {}
        distances = self._apart(prints, sites, zero)[np.triu_indices(len(sites), 1)]
        numbers = grouped(distances, len(sites), self._most)
        return {site: f"{number}" for site, number in zip(sites, numbers, strict=True)}

    def _joining(self, prints: Means, zero: Floats) -> dict[str, str]:
        """Return, for sites that are in no cluster yet, the one whose members are nearest to them on average."""
        new, sites = sorted(set(prints) - set(self._of)), sorted(prints)
        if not new or not self._of:
            return {}
        distances = self._apart(prints, sites, zero)
        names = sorted(set(self._of.values()), key=int)
        members = {name: [place for place, site in enumerate(sites) if self._of.get(site) == name] for name in names}
        return {site: min(names, key=lambda name: distances[sites.index(site), members[name]].mean()) for site in new}

    def tells(self) -> Mapping[str, Any]:
        """Return the sites by cluster."""
        names = sorted(set(self._of.values()))
        return {"clusters": {name: sorted(site for site, own in self._of.items() if own == name) for name in names}}

    def state(self) -> Arrays:
        """Return how many rounds were played, clusters, prints and visits by site, and the clusters' means."""
        return {
            "done": np.array([self._done]),
            **{f"of/{site}/{name}": np.zeros(1) for site, name in self._of.items()},  # a file holds numbers alone
            **self._prints.state(),
            **{f"mean/{name}/{key}": value for name, mean in self._means.items() for key, value in mean.items()},
        }

    def restore(self, state: Arrays) -> None:
        """Take up a saved state."""
        if not state:
            return
        found: dict[str, dict[str, npt.NDArray[Any]]] = {"of": {}, "mean": {}}
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind in found:
                found[kind][name] = value
        self._done = int(state["done"][0])
        self._of = {site: name for site, _, name in (key.partition("/") for key in found["of"])}
        self._prints = Prints.of(state)
        means: dict[str, dict[str, npt.NDArray[Any]]] = {}
        for key, value in found["mean"].items():
            name, _, parameter = key.partition("/")
            means.setdefault(name, {})[parameter] = value
        self._means = means


def _members(of: Mapping[str, str], name: str, replies: Mapping[str, Reply]) -> list[Reply]:
    return [reply for site, reply in replies.items() if of.get(site) == name]


def _average(sent: Arrays, replies: list[Reply]) -> Arrays:
    """Return the mean by images, times the factors; nothing where no reply weighs anything, or it is not finite."""
    weights = np.array([reply.factor * reply.examples for reply in replies], np.float64)
    if not weights.any():
        return {}
    found = {
        name: np.average([reply.arrays[name].astype(np.float64) for reply in replies], 0, weights).astype(value.dtype)
        for name, value in sent.items()
    }
    return found if is_finite(found) else {}
