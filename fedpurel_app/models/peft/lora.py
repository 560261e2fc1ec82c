"""LoRA: low-rank updates of attention projections, by the ``peft`` library.

References: E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022; D. Kalajdzievski, "A Rank
Stabilization Scaling Factor for Fine-Tuning with LoRA" (rsLoRA), 2023.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.image import ImageTower
from fedpurel_app.models.peft.base import Branch, Host, Logits, Role, cosine_logits
from fedpurel_app.models.text import TextTower
from fedpurel_app.models.transformer import Attention

Tower = TypeVar("Tower", bound=nn.Module)


class Lora(Branch):
    """W + (alpha / sqrt(r))·B·A for chosen projections of one or both towers, computed as (x·A)·B.

    Parameters
    ----------
    host : Host
        Needs the towers that are adapted.
    role : str
        Name of the adapter.
    rank : int
        r.
    alpha : float
        Scale of the update, over sqrt(r) (rsLoRA).
    dropout : float
        Of the adapter's input, in training.
    towers : {"vision", "text", "both"}
    blocks : str
        "all", or numbers and ranges as "0-5,11".
    projections : str
        Some of q, k, v and out, as "q,k,v".
    generator : torch.Generator
        Source of A, uniform as torch's linear layers; B is zero at first.

    Raises
    ------
    ConfigError
        When there is no such block or projection, or a tower takes no adapter.

    Notes
    -----
    The adapters sit in a copy of the tower's modules that shares the frozen weights, so that a global and a private
    branch live on one backbone, and the backbone's own towers stay as they are.
    """

    def __init__(
        self,
        host: Host,
        role: Role,
        rank: int,
        alpha: float,
        dropout: float,
        towers: str,
        blocks: str,
        projections: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__(host)
        backbone = host.towers("lora")
        self._backbone, self._role = backbone, role
        form = (rank, alpha, dropout, blocks, projections)
        self._image: ImageTower | None = None
        self._words: TextTower | None = None
        self.takes = "features" if towers == "text" else "pixels"
        if towers in ("vision", "both"):
            self._image = _adapted(backbone.image, role, *form)
        if towers in ("text", "both"):
            self._words = _adapted(backbone.text, role, *form)
            self._prompts = backbone.lay_out(host.prompts)
        for name, value in self.named_parameters():
            if name.endswith("A"):
                bound = 1 / math.sqrt(value.shape[1])
                start = torch.empty(value.shape).uniform_(-bound, bound, generator=generator)
                value.data.copy_(start)
            else:
                value.data.zero_()

    def train(self, mode: bool = True) -> Lora:
        """Switch dropout on or off."""
        for tower in (self._image, self._words):
            if tower is not None:
                tower.train(mode)
        return self

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over A and B of every adapted projection, as ``vision.blocks.0.attention.q.A``."""
        for tower, module in (("vision", self._image), ("text", self._words)):
            if module is not None:
                for name, layer in _layers(module):
                    yield f"{tower}.{name}.A", layer.lora_A[self._role].weight
                    yield f"{tower}.{name}.B", layer.lora_B[self._role].weight

    @torch.no_grad()
    def deltas(self) -> dict[str, Tensor]:
        """Return (alpha / sqrt(r))·B·A of every adapted projection, as ``vision.blocks.0.attention.q``."""
        towers = {"vision": self._image, "text": self._words}
        return {
            f"{tower}.{name}": layer.get_delta_weight(self._role)
            for tower, module in towers.items()
            if module is not None
            for name, layer in _layers(module)
        }

    def class_features(self) -> Tensor:
        """Return text features, shape (C, D): zero-shot CLIP's, or those of the adapted text tower."""
        return self._text if self._words is None else self._backbone.encode_text(self._prompts, self._words)

    def image_features(self, inputs: Tensor) -> Tensor:
        """Encode uint8 pixels, shape (B, 3, H, W), with the adapted image tower, to (B, D); or pass features on."""
        return inputs if self._image is None else self._backbone.encode_pixels(inputs, self._image)

    def frozen(self) -> Logits:
        """Return the function from pixels to logits, with the adapters merged into a copy of the weights."""
        text = self._text
        with torch.no_grad():
            if self._words is not None:
                text = self._backbone.encode_text(self._prompts, self._merged(self._words))
            image = None if self._image is None else self._merged(self._image)

        def logits(inputs: Tensor) -> Tensor:
            features = inputs if image is None else self._backbone.encode_pixels(inputs, image)
            return cosine_logits(features, text, self.logit_scale)

        return logits

    def _merged(self, tower: Tower) -> Tower:
        """Copy a tower's modules with W + (alpha / sqrt(r))·B·A in the place of every adapted projection."""
        merged = _share(tower)
        for name, layer in _layers(merged):
            parent, _, leaf = name.rpartition(".")
            plain = copy.copy(layer.base_layer)
            plain._parameters = dict(plain._parameters)
            plain.weight = nn.Parameter(plain.weight + layer.get_delta_weight(self._role), requires_grad=False)
            setattr(merged.get_submodule(parent), leaf, plain)
        return merged


def _share(tower: Tower) -> Tower:
    """Copy a tower's modules; parameters and buffers are shared."""
    tensors = [*tower.parameters(), *tower.buffers()]
    return copy.deepcopy(tower, {id(tensor): tensor for tensor in tensors})


def _adapted(tower: Tower, role: str, rank: int, alpha: float, dropout: float, blocks: str, projections: str) -> Tower:
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import, and only this family needs it

    depth = len(tower.blocks) if isinstance(tower, ImageTower | TextTower) else 0
    wanted = [part.strip() for part in projections.split(",")]
    if unknown := sorted(set(wanted) - {"q", "k", "v", "out"}):
        raise ConfigError(f'lora-projections = "{projections}": {", ".join(unknown)} is none of q, k, v, out.')
    targets = [f"blocks.{block}.attention.{part}" for block in block_numbers(blocks, depth) for part in wanted]
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, use_rslora=True, target_modules=targets)
    copied = _share(tower)
    for module in copied.modules():
        if isinstance(module, Attention):
            module.unfuse()
    with torch.random.fork_rng(devices=[]):  # peft draws initial weights, which are drawn anew here
        inject_adapter_in_model(config, copied, adapter_name=role)
    return copied.eval()


def block_numbers(text: str, depth: int) -> list[int]:
    """Read a choice of blocks.

    Raises
    ------
    ConfigError
        When it cannot be read, or names a block that the tower does not have.

    Examples
    --------
    >>> block_numbers("0-2,5", 12)
    [0, 1, 2, 5]
    """
    if text == "all":
        return list(range(depth))
    found: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            low, high = int(first), int(last or first)
            if not 0 <= low <= high < depth:  # before a range is written out: it may be one of a billion
                raise ValueError
            found |= set(range(low, high + 1))
    except ValueError:
        found = set()
    if not found:
        raise ConfigError(
            f'lora-blocks = "{text}": give "all", or numbers and ranges as "0-5,11"; this tower has blocks 0 to '
            f"{depth - 1}."
        )
    return sorted(found)


def _layers(tower: nn.Module) -> list[tuple[str, Any]]:
    """List the adapted projections of a tower by name."""
    return [(name, module) for name, module in tower.named_modules() if hasattr(module, "lora_A")]


def build(host: Host, role: Role, options: Mapping[str, Any], generator: torch.Generator) -> Lora:
    """Make a freshly initialised module; see :class:`fedpurel_app.models.peft.registry.Family`."""
    return Lora(
        host,
        role,
        int(options["lora-rank"]),
        float(options["lora-alpha"]),
        float(options["lora-dropout"]),
        str(options["lora-tower"]),
        str(options["lora-blocks"]),
        str(options["lora-projections"]),
        generator,
    )
