"""A prompt and a gate that attends to it and to the prompts of others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from logging import getLogger

import torch
from torch import Tensor, nn

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.peft.base import Logits, PeftModule
from fedpurel_app.models.peft.elsewhere import class_features_at
from fedpurel_app.models.peft.pair import Composite

logger = getLogger("flwr.fedpurel.client")
_STRIDE = 4  # of pooling
_MOST_HEADS = 8
_SCORE_SCALE = 10.0
_AT_ONCE = 256  # images whose attention is in memory


def pooled(features: Tensor) -> Tensor:
    """Take every fourth number of features, shape (..., D), to (..., ceil(D / 4))."""
    return features[..., ::_STRIDE]


class Gate(nn.Module):
    """Multi-head attention of an image to the text features of a class by several experts.

    Parameters
    ----------
    width : int
        Of pooled features, d.
    generator : torch.Generator
        Weights begin as Xavier's uniform draws, biases at zero.
    """

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self._heads = math.gcd(_MOST_HEADS, width)
        self.query, self.key, self.value, self.out = (_linear(width, generator) for _ in range(4))

    def forward(self, images: Tensor, experts: Tensor) -> Tensor:
        """Attend; shapes (B, d) and (K, C, d) to (B, C, d)."""
        many, classes, _ = experts.shape
        query = self.query(images).unflatten(-1, (self._heads, -1))
        key, value = (layer(experts).reshape(many, classes, self._heads, -1) for layer in (self.key, self.value))
        scores = _SCORE_SCALE * torch.einsum("bhd,kchd->bchk", query, key)
        mixed = torch.einsum("bchk,kchd->bchd", scores.softmax(-1), value)
        found: Tensor = self.out(mixed.flatten(-2))
        return found


def _linear(width: int, generator: torch.Generator) -> nn.Linear:
    layer, bound = nn.Linear(width, width, device="meta"), math.sqrt(3 / width)
    layer.weight = nn.Parameter(bound * (2 * torch.rand(width, width, generator=generator) - 1))
    layer.bias = nn.Parameter(torch.zeros(width))
    return layer


class Gated(Composite):
    """lambda s f T^t + s pool(f) . gate(pool(f); T, experts), or s f T^t alone where there are no experts.

    Parameters
    ----------
    shared : PeftModule
        The prompt; called ``shared.<name>``.
    gate : Gate
        Called ``own.<name>``.
    weight : float
        lambda.

    Attributes
    ----------
    experts : Tensor, shape (K - 1, C, D), or None
        Text features of other sites' prompts.
    prompt : mapping of str to Tensor, or None
        Takes the place of the prompt's parameters, in predictions.
    text : Tensor, shape (C, D), or None
        Text features of that.
    """

    def __init__(self, shared: PeftModule, gate: Gate, weight: float) -> None:
        super().__init__(shared)
        self.gate, self._weight = gate, weight
        self.experts: Tensor | None = None
        self.prompt: Mapping[str, Tensor] | None = None
        self.text: Tensor | None = None

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the prompt's parameters, then the gate's."""
        if self.prompt is None:
            yield from ((f"shared.{name}", value) for name, value in self.shared.named_parameters())
        else:
            yield from ((f"shared.{name}", nn.Parameter(value, False)) for name, value in self.prompt.items())
        yield from ((f"own.{name}", value) for name, value in self.gate.named_parameters())

    def class_features(self) -> Tensor:
        """Return the text features, shape (C, D); raises ConfigError where they are not all that logits are made of."""
        if self.experts is not None:
            raise ConfigError("a mixture of experts has no one text feature for a class: this model has no classifier.")
        return self._own()

    def with_text(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits, shape (B, C), and the prompt's own text features, shape (C, D)."""
        text = self._own()
        return self.logits_of(inputs, text), text

    def logits_of(self, inputs: Tensor, class_features: Tensor) -> Tensor:
        """Compute logits with other class features, shape (C, D), in the place of the prompt's; to (B, C)."""
        plain = self.shared.logits_of(inputs, class_features)
        if self.experts is None:
            return plain
        images = pooled(nn.functional.normalize(inputs, dim=-1))
        mixed = self.gate(images, pooled(torch.cat([class_features[None], self.experts])))
        return self._weight * plain + self.logit_scale * torch.einsum("bd,bcd->bc", images, mixed)

    def frozen(self) -> Logits:
        """Return the function from inputs to logits at the present parameters."""
        with torch.no_grad():
            text = self._own()
        return lambda inputs: torch.cat([self.logits_of(part, text) for part in inputs.split(_AT_ONCE)])

    def attend_to(self, experts: Mapping[str, Tensor]) -> list[int]:
        """Encode other prompts, without a graph, and return the numbers of those of use; none: be the prompt alone.

        Parameters
        ----------
        experts : mapping of str to Tensor, each of shape (K - 1, ...)
            A prompt whose text features are not finite, for all that its numbers are, is left out.
        """
        count = len(next(iter(experts.values()), ()))
        with torch.no_grad():
            texts = [
                class_features_at(self.shared, {name: value[number] for name, value in experts.items()})
                for number in range(count)
            ]
        useful = [number for number, text in enumerate(texts) if bool(text.isfinite().all())]
        if len(useful) < count:
            logger.warning("%d prompts of others make no finite text features: left out.", count - len(useful))
        self.experts = torch.stack([texts[number] for number in useful]) if useful else None
        return useful

    def at(self, prompt: Mapping[str, Tensor], experts: Mapping[str, Tensor]) -> Gated:
        """Return a module for predictions, with another prompt and experts and the same gate."""
        other = Gated(self.shared, self.gate, self._weight)
        other.prompt = prompt
        with torch.no_grad():
            other.text = class_features_at(self.shared, prompt)
        other.attend_to(experts)
        return other

    def _own(self) -> Tensor:
        return self.shared.class_features() if self.text is None else self.text
