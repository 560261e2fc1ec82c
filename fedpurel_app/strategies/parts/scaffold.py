"""SCAFFOLD's control variate of the federation: see :mod:`fedpurel_app.algorithms.scaffold`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedpurel_app.core.records import Arrays, is_finite
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies.parts.base import Part, Reply

_C, _EXAMPLES = "c/", "examples"


class Scaffold(Part):
    """Keep c = sum over all sites of n_k/n c_k, and send it with the shared parameters."""

    def __init__(self, options: Mapping[str, Any], sgd: SgdSettings) -> None:
        super().__init__(options, sgd)
        self._c: dict[str, np.ndarray] = {}
        self._examples = 0  # n, when c was last moved

    def brief(self, sent: Arrays, site: str) -> Arrays:
        """Return c; zero at first."""
        return self._c or {name: np.zeros_like(value) for name, value in sent.items()}

    def finish(self, sent: Arrays, mean: Arrays, replies: Mapping[str, Reply], examples: int) -> Arrays:
        """Move c, and leave the mean as it is; raises ValueError when c would not be finite."""
        old, moved = self.brief(sent, ""), dict[str, np.ndarray]()
        for name, x in sent.items():
            # Sites that come later bring c_k = 0 with them.
            c = old[name].astype(float) * (self._examples / examples if self._examples else 1)
            for reply in replies.values():
                travel = self.sgd.travel(self.sgd.steps(reply.examples))  # K eta
                change = (x - reply.arrays[name].astype(float)) / travel - old[name]  # c_k' - c_k
                c += reply.factor * reply.size / examples * change
            with np.errstate(over="ignore"):
                moved[name] = c.astype(x.dtype)
        if not is_finite(moved):
            raise ValueError("the control variate would not be finite")
        self._c, self._examples = moved, examples
        return mean

    def state(self) -> Arrays:
        """Return c and n."""
        return {**{_C + name: value for name, value in self._c.items()}, _EXAMPLES: np.array([self._examples])}

    def restore(self, state: Arrays) -> None:
        """Take up c and n."""
        self._c = {name.removeprefix(_C): value for name, value in state.items() if name.startswith(_C)}
        self._examples = int(state[_EXAMPLES][0]) if state else 0


PART = Scaffold
