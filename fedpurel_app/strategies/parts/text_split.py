"""The server's side of the text split: see :mod:`fedpurel_app.algorithms.split`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.records import Arrays
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies.parts.base import Part, Reply

Text = npt.NDArray[np.float32]


class Trained(NamedTuple):
    """The prompt, and the optimiser's velocity; by name."""

    prompt: Arrays
    velocity: Arrays


class Tower(Protocol):
    """The text tower, and the way back through it."""

    def first(self) -> Trained:
        """Return the prompt before the first step."""
        ...

    def features(self, trained: Trained) -> Text:
        """Return T, the text features of all classes, shape (C, D)."""
        ...

    def step(self, trained: Trained, task: Text, align: Text) -> Trained:
        """Take one step along the purified gradient of what the sites found at T, both of shape (C, D)."""
        ...


class TextSplit(Part):
    """Keep the prompt, send its text features, and take a step of it from the mean of the sites' gradients.

    Parameters
    ----------
    options : mapping
    sgd : SgdSettings
    tower : Tower
    """

    def __init__(self, options: Mapping[str, Any], sgd: SgdSettings, tower: Tower) -> None:
        super().__init__(options, sgd)
        self._tower, self._trained = tower, tower.first()

    def first(self, arrays: Arrays) -> Arrays:
        """Return what is sent before the first step."""
        return self._sent()

    def finish(self, sent: Arrays, mean: Arrays, replies: Mapping[str, Reply], examples: int) -> Arrays:
        """Take a step; raise ValueError when it leads to numbers that are not finite."""
        before = self._trained
        trained = self._tower.step(before, -mean["text"], -mean["align"])
        if not all(np.isfinite(value).all() for value in trained.prompt.values()):
            raise ValueError("the prompt diverged (NaN or Inf): lower the learning rate")
        self._trained = trained
        try:
            return self._sent()
        except BaseException:
            self._trained = before
            raise

    def state(self) -> Arrays:
        """Return the prompt and the velocity."""
        return {
            f"{kind}/{name}": value
            for kind, part in self._trained._asdict().items()
            for name, value in part.items()
        }  # fmt: skip

    def restore(self, state: Arrays) -> None:
        """Take up a saved state."""
        if state:
            parts: dict[str, dict[str, npt.NDArray[Any]]] = {kind: {} for kind in Trained._fields}
            for key, value in state.items():
                kind, _, name = key.partition("/")
                parts[kind][name] = value
            self._trained = Trained(**parts)

    def _sent(self) -> Arrays:
        text = self._tower.features(self._trained)
        return {"text": text, "align": np.zeros_like(text)}
