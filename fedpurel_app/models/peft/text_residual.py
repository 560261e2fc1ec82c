"""Text residual: an offset for the text feature of every class.

Reference: T. Yu, Z. Lu, X. Jin, Z. Chen, X. Wang, "Task Residual for Tuning Vision-Language Models" (TaskRes),
CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedpurel_app.models.peft.base import Branch, Host, Role


class TextResidual(Branch):
    """T' = normalise(T + a·R) with R of shape (C, D), zero at first.

    Parameters
    ----------
    host : Host
    scale : float
        a.
    """

    def __init__(self, host: Host, scale: float) -> None:
        super().__init__(host)
        self._alpha = scale
        self.residual = nn.Parameter(torch.zeros_like(host.zero_shot_text))

    def class_features(self) -> Tensor:
        """Return the shifted text features, shape (C, D), L2-normalised."""
        return nn.functional.normalize(self._text + self._alpha * self.residual, dim=-1)


def build(host: Host, role: Role, options: Mapping[str, Any], generator: torch.Generator) -> TextResidual:
    """Make a freshly initialised module; see :class:`fedpurel_app.models.peft.registry.Family`."""
    return TextResidual(host, float(options["residual-scale"]))
