"""Visual adapter: a learned attention over the channels of the image feature.

Reference: W. Lu, X. Hu, J. Wang, X. Xie, "FedCLIP: Fast Generalization and Personalization for CLIP in Federated
Learning", IEEE Data Engineering Bulletin 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedpurel_app.models.peft.base import Branch, Host, Role


class VisualAdapter(Branch):
    """f' = normalise(a(f̃) ⊙ f̃) with a(f̃) = softmax(W2 tanh(W1 f̃ + b1) + b2).

    Parameters
    ----------
    host : Host
    generator : torch.Generator
        Source of the initial weights: uniform in ±1/sqrt(D), as torch's own linear layers.

    Notes
    -----
    f̃ is the projected image feature *before* normalisation, D to D to D.
    """

    def __init__(self, host: Host, generator: torch.Generator) -> None:
        super().__init__(host)
        width, device = host.zero_shot_text.shape[1], host.zero_shot_text.device
        bound = width**-0.5

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator).to(device))

        self.weight1, self.bias1 = uniform(width, width), uniform(width)
        self.weight2, self.bias2 = uniform(width, width), uniform(width)

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return a(f̃) ⊙ f̃, shape (B, D)."""
        hidden = torch.tanh(nn.functional.linear(inputs, self.weight1, self.bias1))
        return nn.functional.linear(hidden, self.weight2, self.bias2).softmax(-1) * inputs


def build(host: Host, role: Role, options: Mapping[str, Any], generator: torch.Generator) -> VisualAdapter:
    """Make a freshly initialised module; see :class:`fedpurel_app.models.peft.registry.Family`."""
    return VisualAdapter(host, generator)
