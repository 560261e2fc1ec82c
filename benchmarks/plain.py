"""The plain way of a training step: what a direct reading of the method does, on open_clip's own modules.

Nothing is cached: every step encodes the images for zero-shot CLIP and again for the student, encodes all class texts
at the tower's full 77 positions, and runs two whole backward passes. Temperatures are bisected. This is what
``benchmarks/step.py`` measures against, and what the equality of results is checked with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedpurel_app.functional import purify
from fedpurel_app.models.peft.base import Host, PeftModule


class Plain:
    """One family on an open_clip model.

    Parameters
    ----------
    model : open_clip CLIP
    host : Host
        Of the same weights; its tokenizer and class names are used, nothing it has computed.
    family : str
    module : PeftModule
        Gives the parameters, and for LoRA and visual prompts the adapted image tower.
    """

    def __init__(self, model: Any, host: Host, family: str, module: PeftModule) -> None:
        self.model, self.family, self.module = model, family, module
        self.scale, self.backbone = host.logit_scale, host.towers(family)
        self.parameters = [value for _, value in module.named_parameters()]
        tokenizer = self.backbone.tokenizer

        def tokens(rows: Sequence[Sequence[int]]) -> Tensor:
            length = model.context_length
            return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=self.backbone.device)

        whole = [[tokenizer.start, *ids, tokenizer.end] for ids in tokenizer.encode_all(host.prompts)]
        self.tokens = tokens(whole)
        if family == "prompt":
            length = len(self.parameters[0])
            rows = [
                [tokenizer.start, *[0] * length, *ids, tokenizer.end]
                for ids in tokenizer.encode_all([f"{name}." for name in host.class_names])
            ]
            self.ends = torch.tensor([len(row) - 1 for row in rows], device=self.backbone.device)
            embedded = model.token_embedding(tokens(rows)).detach()
            self.start, self.rest = embedded[:, :1], embedded[:, 1 + length :]

    def text(self) -> Tensor:
        """Encode the template prompts at full length."""
        return functional.normalize(self.model.encode_text(self.tokens), dim=-1)

    def student_text(self) -> Tensor:
        """Encode the texts that the student compares with."""
        if self.family != "prompt":
            text = self.text().detach()
            if self.family == "text-residual":
                return functional.normalize(text + 0.5 * self.parameters[0], dim=-1)
            return text
        context = self.parameters[0].expand(len(self.ends), -1, -1)
        x = torch.cat([self.start, context, self.rest], 1) + self.model.positional_embedding
        x = self.model.ln_final(self.model.transformer(x, attn_mask=self.model.attn_mask))
        x = x[torch.arange(len(x), device=x.device), self.ends] @ self.model.text_projection
        return functional.normalize(x, dim=-1)

    def logits(self, pixels: Tensor) -> Tensor:
        """Compute the student's logits from pixels."""
        if self.family in ("lora", "visual-prompt"):
            features = self.module.image_features(pixels)  # type: ignore[attr-defined]
        else:
            with torch.no_grad():
                features = self.model.encode_image(self.backbone.normalise(pixels))
            if self.family == "adapter":
                features = self.module.image_features(features)  # type: ignore[attr-defined]
        return self.scale * functional.normalize(features, dim=-1) @ self.student_text().T

    @torch.no_grad()
    def zero_shot(self, pixels: Tensor) -> Tensor:
        """Compute zero-shot logits from pixels and template prompts."""
        features = functional.normalize(self.model.encode_image(self.backbone.normalise(pixels)), dim=-1)
        return self.scale * features @ self.text().T

    def global_step(self, pixels: Tensor, labels: Tensor, rate: float, iterations: int = 20) -> None:
        """Take a purified step of phase 1."""
        zero_shot, logits = self.zero_shot(pixels), self.logits(pixels)
        task = torch.autograd.grad(functional.cross_entropy(logits, labels), self.parameters, retain_graph=True)
        aligned = _aligned_kl(logits, zero_shot, iterations)
        align = torch.autograd.grad(aligned, self.parameters)
        self._descend(purify(list(task), list(align)), rate)

    def private_step(self, frozen: Plain, pixels: Tensor, labels: Tensor, rate: float, weight: float = 0.9) -> None:
        """Take a step of phase 2 on top of a frozen global branch."""
        with torch.no_grad():
            global_logits = frozen.logits(pixels)
        logits = self.logits(pixels)
        both = functional.cross_entropy(global_logits + logits, labels)
        loss = (1 - weight) * both + weight * functional.cross_entropy(logits, labels)
        self._descend(list(torch.autograd.grad(loss, self.parameters)), rate)

    @torch.no_grad()
    def _descend(self, gradients: list[Tensor], rate: float) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=rate)


def _aligned_kl(logits: Tensor, zero_shot: Tensor, iterations: int) -> Tensor:
    with torch.no_grad():
        target = (_entropy(logits) + _entropy(zero_shot)) / 2
        student, teacher = (_bisect(rows, target, iterations) for rows in (logits, zero_shot))
    log_student = (logits / student[:, None]).log_softmax(-1)
    log_teacher = (zero_shot / teacher[:, None]).log_softmax(-1)
    return functional.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")


def _entropy(logits: Tensor) -> Tensor:
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def _bisect(rows: Tensor, target: Tensor, iterations: int) -> Tensor:
    low, high = torch.full_like(target, 0.05), torch.full_like(target, 20.0)
    for _ in range(iterations):
        middle = (low + high) / 2
        cold = _entropy(rows / middle[:, None]) < target
        low, high = torch.where(cold, middle, low), torch.where(cold, high, middle)
    return (low + high) / 2
