"""SCAFFOLD's control variate of the federation: see :mod:`fedpurel_app.algorithms.scaffold`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fedpurel_app.core.records import Arrays
from fedpurel_app.strategies.parts.base import Part, Reply


class Scaffold(Part):
    """Keep c, send it with the shared parameters, and move it by the cohort's mean of c_k' - c_k."""

    numbers: ClassVar[Mapping[str, tuple[float, float]]] = {"travel": (1e-12, 1e12)}

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._c: dict[str, np.ndarray] = {}

    def brief(self, sent: Arrays, site: str) -> Arrays:
        """Return c; zero at first."""
        return self._c or {name: np.zeros_like(value) for name, value in sent.items()}

    def finish(self, sent: Arrays, mean: Arrays, replies: Mapping[str, Reply], num_sites: int) -> Arrays:
        """Move c, and leave the mean as it is."""
        before, share = self.brief(sent, ""), len(replies) / num_sites
        for name, x in sent.items():
            # c_k' - c_k = (x - y_k) / (K eta) - c
            slopes = [(x - reply.arrays[name].astype(float)) / reply.numbers["travel"] for reply in replies.values()]
            moved = before[name] + share * (np.mean(slopes, axis=0) - before[name])
            self._c[name] = moved.astype(x.dtype)
        return mean

    def state(self) -> Arrays:
        """Return c."""
        return dict(self._c)

    def restore(self, state: Arrays) -> None:
        """Take up c."""
        self._c = dict(state)


PART = Scaffold
