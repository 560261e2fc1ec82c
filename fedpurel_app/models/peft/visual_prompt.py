"""Visual prompt: learned tokens beside the patches of every image.

References: M. Jia, L. Tang, B.-C. Chen, C. Cardie, S. Belongie, B. Hariharan, S.-N. Lim, "Visual Prompt Tuning" (VPT),
ECCV 2022. That tokens move between blocks: C. Shang, M. Li, Y. Zhang, Z. Chen, J. Wu, F. Gu, Y. Lu, Y.-M. Cheung,
"PRO-VPT: Distribution-Adaptive Visual Prompt Tuning via Prompt Relocation", ICCV 2025.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedpurel_app.core.layout import HOME
from fedpurel_app.models.image import ImageTower
from fedpurel_app.models.peft.base import Branch, Host, Role


class VisualPrompt(Branch):
    """Tokens behind the class token, before the first block (shallow) or anew before every block (deep).

    Parameters
    ----------
    host : Host
        Needs an image tower of CLIP's own form.
    tokens : Tensor, shape (K, n, width), or (P, width) with ``home``
        Initial ones; row i enters before block i.
    home : ndarray of int, shape (P,), optional
        By token, the block that it enters before; a block may have none. What comes out of a block in the places of
        learned tokens is dropped before the next one, whether or not that has tokens of its own.

    Raises
    ------
    ValueError
        When ``home`` does not fit the tokens, or names a block that is not there.
    """

    takes = "pixels"
    _order: Tensor

    def __init__(self, host: Host, tokens: Tensor, home: npt.NDArray[Any] | None = None) -> None:
        super().__init__(host)
        self._backbone = [host.towers("visual-prompt")]
        self.tokens = nn.Parameter(tokens.to(self._backbone[0].device))
        self._counts: list[int] | None = None
        self._home: list[int] = []
        if home is not None:
            self._lay_out(home, len(self._backbone[0].image.blocks))

    def _lay_out(self, home: npt.NDArray[Any], blocks: int) -> None:
        if home.shape != self.tokens.shape[:1] or home.dtype.kind not in "iu":
            raise ValueError(f"home has the shape {home.shape} for {len(self.tokens)} tokens.")
        if len(home) and not 0 <= home.min() <= home.max() < blocks:
            raise ValueError(f"home names blocks {home.min()} to {home.max()}; the tower has 0 to {blocks - 1}.")
        self._counts, self._home = np.bincount(home, minlength=blocks).tolist(), home.tolist()
        order = torch.from_numpy(home.argsort(kind="stable"))  # within a block, by the number of the token
        self.register_buffer("_order", order.to(self.tokens.device), persistent=False)

    @property
    def prompts(self) -> Sequence[Tensor]:
        """The tokens of each block, shapes (n_i, width)."""
        return self.tokens.unbind() if self._counts is None else self.tokens[self._order].split(self._counts)

    @property
    def layout(self) -> dict[str, list[int]]:
        """Every token's block, where tokens move."""
        return {} if self._counts is None else {HOME: self._home}

    def image_features(self, inputs: Tensor) -> Tensor:
        """Encode uint8 pixels, shape (B, 3, H, W), with the learned tokens; to (B, D)."""
        backbone = self._backbone[0]
        return backbone.encode_pixels(inputs, partial(backbone.image, prompts=self.prompts))


def first_tokens(tower: ImageTower, rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw tokens, shape (rows, count, width), as VPT: uniform in ±sqrt(6 / (3 p² + width)), p × p pixels a patch."""
    bound = math.sqrt(6 / (math.prod(tower.patches.shape[1:]) + tower.width))
    return torch.empty((rows, count, tower.width)).uniform_(-bound, bound, generator=generator)


def build(host: Host, role: Role, options: Mapping[str, Any], generator: torch.Generator) -> VisualPrompt:
    """Make a freshly initialised module; see :class:`fedpurel_app.models.peft.registry.Family`.

    Where tokens move, ``options`` may have their ``home``, shape (P,); else each block has as many as the others.
    """
    tower, count = host.towers("visual-prompt").image, int(options["prompt-tokens"])
    rows = len(tower.blocks) if options["prompt-depth"] == "deep" else 1
    tokens = first_tokens(tower, rows, count, generator)
    if options["prompt-relocation"] == "none":
        return VisualPrompt(host, tokens)
    home = options.get(HOME)
    return VisualPrompt(host, tokens.flatten(0, 1), np.arange(rows).repeat(count) if home is None else home)
