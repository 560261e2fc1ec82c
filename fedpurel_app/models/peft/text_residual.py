"""Text residual: an offset for the text feature of every class.

Reference: T. Yu, Z. Lu, X. Jin, Z. Chen, X. Wang, "Task Residual for Tuning Vision-Language Models" (TaskRes),
CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedpurel_app.models.peft.base import Family, Host, cosine_logits


class TextResidual(nn.Module):
    """T' = normalise(T + a·R) with R of shape (C, D), zero at first.

    Parameters
    ----------
    host : Host
    scale : float
        a.
    """

    _text: Tensor

    def __init__(self, host: Host, scale: float) -> None:
        super().__init__()
        self._scale, self._alpha = host.logit_scale, scale
        self.register_buffer("_text", host.zero_shot_text, persistent=False)
        self.residual = nn.Parameter(torch.zeros_like(host.zero_shot_text))

    def class_features(self) -> Tensor:
        """Give the shifted text features, shape (C, D), L2-normalised."""
        return nn.functional.normalize(self._text + self._alpha * self.residual, dim=-1)

    def logits(self, image_features: Tensor, class_features: Tensor | None = None) -> Tensor:
        """Compute cosine logits with the shifted text features; shapes (B, D) to (B, C)."""
        text = self.class_features() if class_features is None else class_features
        return cosine_logits(image_features, text, self._scale)


def _build(host: Host, options: Mapping[str, float | int], generator: torch.Generator) -> TextResidual:
    return TextResidual(host, float(options["residual-scale"]))


FAMILY = Family(
    name="text-residual",
    build=_build,
    learning_rate=0.1,
    private_learning_rate=0.03,
    needs_text_tower=False,
    paper="TaskRes, Yu et al., CVPR 2023",
)
