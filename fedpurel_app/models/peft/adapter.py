"""Visual adapter: a learned attention over the channels of the image feature.

Reference: W. Lu, X. Hu, J. Wang, X. Xie, "FedCLIP: Fast Generalization and Personalization for CLIP in Federated
Learning", IEEE Data Engineering Bulletin 2023.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedpurel_app.models.peft.base import Family, Host, cosine_logits


class VisualAdapter(nn.Module):
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

    _text: Tensor

    def __init__(self, host: Host, generator: torch.Generator) -> None:
        super().__init__()
        self._scale = host.logit_scale
        self.register_buffer("_text", host.zero_shot_text, persistent=False)
        width, device = host.zero_shot_text.shape[1], host.zero_shot_text.device
        bound = width**-0.5

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator).to(device))

        self.weight1, self.bias1 = uniform(width, width), uniform(width)
        self.weight2, self.bias2 = uniform(width, width), uniform(width)

    def class_features(self) -> Tensor:
        """Give the frozen text features, shape (C, D)."""
        return self._text

    def logits(self, image_features: Tensor, class_features: Tensor | None = None) -> Tensor:
        """Compute cosine logits of the adapted image features; shapes (B, D) to (B, C)."""
        hidden = torch.tanh(nn.functional.linear(image_features, self.weight1, self.bias1))
        attention = nn.functional.linear(hidden, self.weight2, self.bias2).softmax(-1)
        return cosine_logits(attention * image_features, self._text, self._scale)


def _build(host: Host, options: Mapping[str, float | int], generator: torch.Generator) -> VisualAdapter:
    return VisualAdapter(host, generator)


FAMILY = Family(
    name="adapter",
    build=_build,
    learning_rate=0.1,
    private_learning_rate=0.1,
    needs_text_tower=False,
    paper="FedCLIP, Lu et al., IEEE Data Engineering Bulletin 2023",
)
