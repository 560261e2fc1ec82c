"""Two modules of one family as one: what is shared, and what a site has of its own beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedpurel_app.models.peft.base import Logits, PeftModule


class Pair(ABC):
    """Both are trained; images are seen through the shared one. A subclass says how their class features meet.

    Parameters
    ----------
    shared, own : PeftModule
        Their parameters are called ``shared.<name>`` and ``own.<name>``.
    """

    def __init__(self, shared: PeftModule, own: PeftModule) -> None:
        self.shared, self.own = shared, own
        self.takes_pixels = shared.takes_pixels

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over both modules' parameters, the shared ones first."""
        for role, module in (("shared", self.shared), ("own", self.own)):
            yield from ((f"{role}.{name}", value) for name, value in module.named_parameters())

    def train(self, mode: bool = True) -> None:
        """Switch dropout of both on or off."""
        self.shared.train(mode)
        self.own.train(mode)

    @abstractmethod
    def class_features(self) -> Tensor:
        """Return what both make together, shape (C, D)."""

    def logits(self, inputs: Tensor) -> Tensor:
        """Compute logits, shape (B, C)."""
        return self.logits_of(inputs, self.class_features())

    def logits_of(self, inputs: Tensor, class_features: Tensor) -> Tensor:
        """Compute logits of other class features, shape (C, D); to (B, C)."""
        return self.shared.logits_of(inputs, class_features)

    def frozen(self) -> Logits:
        """Return the function from inputs to logits at the present parameters."""
        with torch.no_grad():
            text = self.class_features()
        return lambda inputs: self.logits_of(inputs, text)
