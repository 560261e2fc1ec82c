"""Text prompt: context vectors learned in the space of word embeddings, shared by all classes.

References: K. Zhou, J. Yang, C. C. Loy, Z. Liu, "Learning to Prompt for Vision-Language Models" (CoOp), IJCV 2022; in
federations PromptFL, Guo et al., IEEE TMC 2023.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedpurel_app.errors import ConfigError
from fedpurel_app.models.backbone import pad_tokens
from fedpurel_app.models.peft.base import Family, Host, cosine_logits


class TextPrompt(nn.Module):
    """[SOS] [context] class name . [EOT], with a trained context.

    Parameters
    ----------
    host : Host
        Needs a text tower.
    length : int
        Number of context vectors.
    generator : torch.Generator
        Source of the initial context, N(0, 0.02).

    Notes
    -----
    Prompts are as long as the longest one needs, not as long as the tower allows: what follows the end-of-text token
    cannot be seen under the causal mask.
    """

    _start: Tensor
    _names: Tensor
    _ends: Tensor

    def __init__(self, host: Host, length: int, generator: torch.Generator) -> None:
        super().__init__()
        if host.backbone is None:
            raise ConfigError('peft = "prompt" needs a text tower, and precomputed features come with none.')
        self._tower = [host.backbone.text]  # in a list, so that the frozen tower is no submodule of this one
        self._scale = host.logit_scale
        tokenizer, tower = host.backbone.tokenizer, host.backbone.text
        names = [name.replace("_", " ") for name in host.class_names]
        tokens, ends = pad_tokens(
            [[*tokenizer.encode(f"{name}."), tokenizer.end] for name in names], host.backbone.device
        )
        if (needed := 1 + length + tokens.shape[1]) > len(tower.positions):
            most = length - needed + len(tower.positions)
            raise ConfigError(
                f"context-length = {length}: with the longest class name that is {needed} tokens, and this text tower "
                f"takes {len(tower.positions)}: use at most {most}."
            )
        start = torch.tensor([[tokenizer.start]], device=host.backbone.device)
        self.register_buffer("_start", tower.embed(start), persistent=False)
        self.register_buffer("_names", tower.embed(tokens), persistent=False)
        self.register_buffer("_ends", ends + 1 + length, persistent=False)
        context = torch.randn(length, tower.width, generator=generator) * 0.02
        self.context = nn.Parameter(context.to(host.backbone.device))

    def class_features(self) -> Tensor:
        """Encode all class prompts, shape (C, D), L2-normalised."""
        count = len(self._names)
        context = self.context.expand(count, *self.context.shape)
        embeddings = torch.cat([self._start.expand(count, -1, -1), context, self._names], 1)
        return functional.normalize(self._tower[0].encode(embeddings, self._ends), dim=-1)

    def logits(self, image_features: Tensor, class_features: Tensor | None = None) -> Tensor:
        """Compute cosine logits with the prompted text features; shapes (B, D) to (B, C)."""
        text = self.class_features() if class_features is None else class_features
        return cosine_logits(image_features, text, self._scale)


def _build(host: Host, options: Mapping[str, float | int], generator: torch.Generator) -> TextPrompt:
    return TextPrompt(host, int(options["context-length"]), generator)


FAMILY = Family(
    name="prompt",
    build=_build,
    learning_rate=0.1,
    private_learning_rate=0.1,
    needs_text_tower=True,
    paper="CoOp, Zhou et al., IJCV 2022; PromptFL, Guo et al., IEEE TMC 2023",
)
