"""pFedMoAP's pool of prompts: see :mod:`fedpurel_app.algorithms.pfedmoap`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedpurel_app.core.records import Arrays
from fedpurel_app.strategies.parts.base import WORTHY, Part, Reply


class Nearest(Part):
    """Keep every site's last parameters, and send a site those of others that are nearest to its own."""

    _last: Mapping[str, Arrays] = {}

    def brief(self, sent: Arrays, site: str) -> Arrays:
        """Return K - 1 others' parameters, ``expert/<name>`` of shape (K - 1, ...), the nearest first.

        A site that has sent none yet gets none: it begins with the average.
        """
        own = self._last.get(site)
        if own is None:
            return {}
        away = {other: _distance(own, last) for other, last in self._last.items() if other != site}
        near = sorted(away, key=lambda other: (away[other], other))[: self.options["experts"] - 1]
        return {f"expert/{name}": np.stack([self._last[other][name] for other in near]) for name in own if near}

    def finish(self, sent: Arrays, mean: Arrays, replies: Mapping[str, Reply], examples: int) -> Arrays:
        """Keep what came and is worth half of its weight or more, and leave the mean as it is."""
        worthy = {site: dict(reply.arrays) for site, reply in replies.items() if reply.factor >= WORTHY}
        self._last = {**self._last, **worthy}
        return mean

    def state(self) -> Arrays:
        """Return the sites' parameters, as ``<site>/<name>``."""
        return {f"{site}/{name}": value for site, last in self._last.items() for name, value in last.items()}

    def restore(self, state: Arrays) -> None:
        """Take up the sites' parameters."""
        last: dict[str, dict[str, np.ndarray]] = {}
        for key, value in state.items():
            site, _, name = key.partition("/")
            last.setdefault(site, {})[name] = value
        self._last = last


def _distance(one: Arrays, other: Arrays) -> float:
    """Return the squared Euclidean distance."""
    return float(sum(np.square(value.astype(float) - other[name]).sum() for name, value in one.items()))


PART = Nearest
