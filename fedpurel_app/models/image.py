"""CLIP's vision transformer, from its weights alone, with room for learned tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedpurel_app.models.transformer import make_blocks, unsupported


class ImageTower(nn.Module):
    """A frozen vision transformer.

    Parameters
    ----------
    weights : mapping of str to Tensor
        State of an open_clip model; only the names of its image tower are read.
    config : mapping
        open_clip's ``vision_cfg``: ``width``, ``layers``, ``patch_size``, ``head_width`` and what deviates from the
        default form.
    quick_gelu : bool
        Activation of OpenAI's own checkpoints instead of GELU.

    Raises
    ------
    RuntimeError
        Naming the weights that are missing or of another shape.

    Notes
    -----
    Gives what open_clip's ``encode_image`` gives, up to rounding.
    """

    patches: Tensor
    class_token: Tensor
    positions: Tensor
    projection: Tensor

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any], quick_gelu: bool = False) -> None:
        super().__init__()
        own = {name[7:]: value for name, value in weights.items() if name.startswith("visual.")}
        self.register_buffer("patches", own["conv1.weight"], persistent=False)
        self.register_buffer("class_token", own["class_embedding"], persistent=False)
        self.register_buffer("positions", own["positional_embedding"], persistent=False)
        self.register_buffer("projection", own["proj"], persistent=False)
        heads = self.width // int(config.get("head_width", 64))
        self.blocks = make_blocks(own, "transformer.resblocks.", {**config, "heads": heads}, quick_gelu)
        epsilon = float((config.get("norm_kwargs") or {}).get("eps", 1e-5))
        self.norm_before: nn.Module = nn.Identity()
        if not config.get("no_ln_pre"):
            self.norm_before = _norm(own, "ln_pre", epsilon)
        self.norm_after = _norm(own, "ln_post", epsilon)
        self._mean = config.get("pool_type", "tok") == "avg"
        self._pool_first = bool(config.get("final_ln_after_pool"))
        self.requires_grad_(False).eval()

    @staticmethod
    def unsupported(config: Mapping[str, Any]) -> list[str]:
        """List what an open_clip ``vision_cfg`` has that this tower lacks; empty for CLIP's own vision transformers."""
        found = unsupported(config)
        found += [name for name in ("timm_model_name", "attentional_pool") if config.get(name)]
        if isinstance(config.get("layers"), Sequence):
            found.append("layers of a ResNet")
        if config.get("pool_type", "tok") not in ("tok", "avg"):
            found.append(f"pool_type = {config['pool_type']}")
        return found

    @property
    def width(self) -> int:
        """Width of the tokens."""
        return int(self.class_token.shape[0])

    def forward(self, pixels: Tensor, prompts: Sequence[Tensor] = ()) -> Tensor:
        """Encode images.

        Parameters
        ----------
        pixels : Tensor, shape (B, 3, H, W)
            Preprocessed.
        prompts : sequence of Tensor, shapes (n_i, width)
            Learned tokens, put behind the class token: those of entry i enter before block i, and take the place of
            the ones that came through the blocks before. Some n_i may be 0.

        Returns
        -------
        Tensor, shape (B, D)
            Image features, projected but not normalised.
        """
        return self._pooled(self._tokens(pixels, prompts), len(prompts[-1]) if len(prompts) else 0)

    def with_patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images, shape (B, 3, H, W), to features of theirs, (B, D), and of their patches, (B, M, D).

        Those of the patches are the last block's tokens but the class token, put through the same norm and projection.
        """
        x = self._tokens(pixels)
        patches: Tensor = self.norm_after(x[:, 1:]) @ self.projection
        return self._pooled(x, 0), patches

    def _tokens(self, pixels: Tensor, prompts: Sequence[Tensor] = ()) -> Tensor:
        """Put images through all blocks: class token, learned tokens of the last entry, patches."""
        patches = functional.conv2d(pixels, self.patches.to(pixels.dtype), stride=self.patches.shape[2:])
        count = pixels.shape[0]  # len() would fix the size of the batch where the tower is exported
        x = torch.cat([self.class_token.expand(count, 1, -1), patches.flatten(2).transpose(1, 2)], 1)
        x = self.norm_before(x + self.positions)
        there = 0  # learned tokens behind the class token
        for index, block in enumerate(self.blocks):
            if index < len(prompts):
                x = torch.cat([x[:, :1], prompts[index].expand(count, -1, -1), x[:, 1 + there :]], 1)
                there = len(prompts[index])
            x = block(x)
        return x

    def _pooled(self, x: Tensor, extra: int) -> Tensor:
        """Turn tokens, of which so many behind the first are learned ones, into features, shape (B, D)."""
        if self._mean:
            x = x[:, 1 + extra :]
            x = self.norm_after(x.mean(1)) if self._pool_first else self.norm_after(x).mean(1)
        else:
            x = self.norm_after(x[:, 0])
        features: Tensor = x @ self.projection
        return features


def _norm(weights: Mapping[str, Tensor], name: str, epsilon: float) -> nn.LayerNorm:
    norm = nn.LayerNorm(len(weights[f"{name}.weight"]), epsilon)
    norm.load_state_dict({part: weights[f"{name}.{part}"] for part in ("weight", "bias")}, assign=True)
    return norm
