"""Visual prompt: learned tokens beside the patches of every image.

Reference: M. Jia, L. Tang, B.-C. Chen, C. Cardie, S. Belongie, B. Hariharan, S.-N. Lim, "Visual Prompt Tuning" (VPT),
ECCV 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedpurel_app.models.peft.base import Branch, Host, Role


class VisualPrompt(Branch):
    """n tokens behind the class token, before the first block (shallow) or anew before every block (deep).

    Parameters
    ----------
    host : Host
        Needs an image tower of CLIP's own form.
    count : int
        n.
    deep : bool
    generator : torch.Generator
        Source of the initial tokens: uniform in ±sqrt(6 / (3 p² + width)) for patches of p × p pixels, as VPT.
    """

    takes = "pixels"

    def __init__(self, host: Host, count: int, deep: bool, generator: torch.Generator) -> None:
        super().__init__(host)
        backbone = host.towers("visual-prompt")
        self._backbone = [backbone]
        tower = backbone.image
        bound = math.sqrt(6 / (math.prod(tower.patches.shape[1:]) + tower.width))
        shape = (len(tower.blocks) if deep else 1, count, tower.width)
        self.tokens = nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator).to(backbone.device))

    def image_features(self, inputs: Tensor) -> Tensor:
        """Encode uint8 pixels, shape (B, 3, H, W), with the learned tokens; to (B, D)."""
        backbone = self._backbone[0]
        return backbone.encode_pixels(inputs, partial(backbone.image, prompts=self.tokens))


def build(host: Host, role: Role, options: Mapping[str, Any], generator: torch.Generator) -> VisualPrompt:
    """Make a freshly initialised module; see :class:`fedpurel_app.models.peft.registry.Family`."""
    return VisualPrompt(host, int(options["prompt-tokens"]), options["prompt-depth"] == "deep", generator)
