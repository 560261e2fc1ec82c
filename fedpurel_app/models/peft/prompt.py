"""Text prompt: context vectors learned in the space of word embeddings.

References: K. Zhou, J. Yang, C. C. Loy, Z. Liu, "Learning to Prompt for Vision-Language Models" (CoOp), IJCV 2022; in
federations PromptFL, Guo et al., IEEE TMC 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.backbone import Backbone
from fedpurel_app.models.peft.base import Branch, Host, Role
from fedpurel_app.models.peft.split_text import SplitText
from fedpurel_app.models.peft.text_residual import TextResidual
from fedpurel_app.models.text import LaidOut, Layout

_PRIVATE_SCALE = 0.5  # of the text residual, its own default


class TextPrompt(Branch):
    """[SOS] [context] class name . [EOT], with a trained context.

    Parameters
    ----------
    host : Host
        Needs a text tower.
    length : int
        Number of context vectors.
    position : {"end", "middle", "front"}
        Where the class name stands: behind the context, between its halves, or before it.
    class_specific : bool
        One context for each class instead of one for all.
    words : str
        Initial context; empty for N(0, 0.02). Must have as many tokens as the context is long.
    generator : torch.Generator
        Source of the random context.

    Raises
    ------
    ConfigError
        When the prompts do not fit the tower, or the words do not fit the length.

    Notes
    -----
    A context that is common to all classes and comes first is encoded once for all of them.
    """

    _prefix: Tensor
    _fixed: Tensor
    _sources: Tensor

    def __init__(
        self, host: Host, length: int, position: str, class_specific: bool, words: str, generator: torch.Generator
    ) -> None:
        super().__init__(host)
        backbone = host.towers("prompt")
        self._backbone = [backbone]  # in a list, so that the frozen towers are no submodule of this one
        tower, tokenizer = backbone.text, backbone.tokenizer
        *names, stop = tokenizer.encode_all([*(name.replace("_", " ") for name in host.class_names), "."])
        end = [*stop, tokenizer.end]
        longest = 1 + length + max(map(len, names)) + len(end)
        if longest > len(tower.positions):
            raise ConfigError(
                f"context-length = {length}: with the longest class name that is {longest} tokens, and this text tower "
                f"takes {len(tower.positions)}: use at most {length - longest + len(tower.positions)}."
            )
        context = _initial_context(backbone, length, words, generator)
        self.context = nn.Parameter(context.repeat(len(names), 1, 1) if class_specific else context)
        self._shared_start = position == "end" and not class_specific
        self.register_buffer("_prefix", tower.embed([tokenizer.start]), persistent=False)
        before = {"end": length, "middle": length // 2, "front": 0}[position]
        if self._shared_start:
            rows = [[*name, *end] for name in names]
        else:  # a negative number -1 - k stands for vector k of the context
            rows = []
            for index, name in enumerate(names):
                slots = [-1 - (index * length * class_specific + k) for k in range(length)]
                rows.append([*slots[:before], *name, *slots[before:], *end])
        self._layout = Layout.of([len(row) for row in rows], backbone.device)
        flat = [token for index in self._layout.order for token in rows[index]]
        fixed = [token for token in flat if token >= 0]
        place = iter(range(len(fixed)))
        self.register_buffer("_fixed", tower.embed(fixed), persistent=False)
        sources = [next(place) if token >= 0 else len(fixed) - 1 - token for token in flat]
        self.register_buffer("_sources", torch.tensor(sources, device=backbone.device), persistent=False)

    def class_features(self) -> Tensor:
        """Encode all class prompts, shape (C, D), L2-normalised."""
        if self._shared_start:
            prompts = LaidOut(torch.cat([self._prefix, self.context]), self._fixed, self._layout)
        else:
            pool = torch.cat([self._fixed, self.context.flatten(0, -2)])
            prompts = LaidOut(self._prefix, pool[self._sources], self._layout)
        return self._backbone[0].encode_text(prompts)


def _initial_context(backbone: Backbone, length: int, words: str, generator: torch.Generator) -> Tensor:
    """Return the first context, shape (length, width)."""
    if not words:
        return (torch.randn(length, backbone.text.width, generator=generator) * 0.02).to(backbone.device)
    (tokens,) = backbone.tokenizer.encode_all([words])
    if len(tokens) != length:
        raise ConfigError(
            f'context-words = "{words}" has {len(tokens)} tokens, and context-length = {length}: set '
            f"context-length = {len(tokens)}, or other words."
        )
    return backbone.text.embed(tokens).clone()


def build(host: Host, role: Role, options: Mapping[str, Any], generator: torch.Generator) -> Branch:
    """Make a freshly initialised module; see :class:`fedpurel_app.models.peft.registry.Family`.

    With ``split = "text"`` a site has no tower: its side of the shared prompt is the text features that the server
    sends, and its private branch is a text residual.
    """
    if options["split"] == "text":
        return SplitText(host) if role == "global" else TextResidual(host, _PRIVATE_SCALE)
    return TextPrompt(
        host,
        int(options["context-length"]),
        str(options["context-position"]),
        bool(options["class-specific-context"]),
        str(options["context-words"]),
        generator,
    )
