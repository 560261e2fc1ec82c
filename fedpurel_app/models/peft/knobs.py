"""What turns a preference into coordinates of a basis: h of :class:`fedpurel_app.models.peft.pareto.Pareto`."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

_HIDDEN = 64


class Knob(Protocol):
    """From a preference to r coordinates. A torch module, whose parameters sites share."""

    def __call__(self, preference: Tensor, tasks: Tensor | None) -> Tensor:
        """Map p, shape (m,), to coordinates, shape (r,), with gradients.

        ``tasks`` is what the site knows of others' problems and its own, the own one first, shape (K, d); None where it
        knows nothing, or the method does not ask.
        """
        ...


class Perceptron(nn.Module):
    """Two layers: W_2 relu(W_1 p + b_1) + b_2.

    Parameters
    ----------
    preferences, rank : int
        m and r.
    generator : torch.Generator
        All begin as uniform draws from +-1/sqrt(number of inputs).
    """

    def __init__(self, preferences: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.inner = linear(preferences, _HIDDEN, generator)
        self.outer = linear(_HIDDEN, rank, generator)

    def forward(self, preference: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Map p, shape (m,), to coordinates, shape (r,), whatever others' problems are."""
        found: Tensor = self.outer(self.inner(preference).relu())
        return found


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Make a layer whose matrix and bias are uniform draws from +-1/sqrt(inputs)."""
    layer, bound = nn.Linear(inputs, outputs, device="meta"), 1 / math.sqrt(inputs)
    layer.weight = nn.Parameter(bound * (2 * torch.rand(outputs, inputs, generator=generator) - 1))
    layer.bias = nn.Parameter(bound * (2 * torch.rand(outputs, generator=generator) - 1))
    return layer
