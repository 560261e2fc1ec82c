"""CLIP's text tower, from its weights alone.

A prompt learner feeds embeddings, not tokens, into the tower, and needs no more positions than its longest prompt:
positions behind the end-of-text token are dead under the causal mask. Written in plain torch so that training a prompt
on cached image features needs neither open_clip (whose import takes seconds) nor the image tower in memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


class TextTower(nn.Module):
    """A frozen pre-norm transformer over prompt embeddings.

    Parameters
    ----------
    weights : mapping of str to Tensor
        State of an open_clip ``CLIP`` model; only the names of its text tower are read.
    heads : int
        Number of attention heads.
    quick_gelu : bool
        Activation of OpenAI's own checkpoints, x·sigmoid(1.702 x), instead of GELU.

    Notes
    -----
    Gives what open_clip's ``encode_text`` gives, up to rounding.
    """

    token_embedding: Tensor
    positions: Tensor
    projection: Tensor

    def __init__(self, weights: Mapping[str, Tensor], heads: int, quick_gelu: bool = False) -> None:
        super().__init__()
        self.register_buffer("token_embedding", weights["token_embedding.weight"], persistent=False)
        self.register_buffer("positions", weights["positional_embedding"], persistent=False)
        self.register_buffer("projection", weights["text_projection"], persistent=False)
        width = self.positions.shape[1]
        depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("transformer.resblocks."))
        self.blocks = nn.ModuleList(_Block(width, heads, quick_gelu) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width)
        state = {_own_name(name): value for name, value in weights.items() if _own_name(name)}
        self.load_state_dict(state, assign=True)
        self.requires_grad_(False).eval()

    @property
    def width(self) -> int:
        """Width of the token embeddings."""
        return int(self.token_embedding.shape[1])

    def embed(self, tokens: Tensor) -> Tensor:
        """Look up token embeddings, without positions; shapes (N, L) of int64 to (N, L, width)."""
        return functional.embedding(tokens, self.token_embedding)

    def encode(self, embeddings: Tensor, ends: Tensor) -> Tensor:
        """Encode prompts.

        Parameters
        ----------
        embeddings : Tensor, shape (N, L, width)
            Token embeddings, without positions; what follows the end-of-text token is padding.
        ends : Tensor of int64, shape (N,)
            Position of each prompt's end-of-text token.

        Returns
        -------
        Tensor, shape (N, D)
            Text features, not normalised.

        Raises
        ------
        ValueError
            When the prompts are longer than the tower's positions.
        """
        length = embeddings.shape[1]
        if length > len(self.positions):
            raise ValueError(f"a prompt has {length} tokens; this text tower takes {len(self.positions)}")
        x = embeddings + self.positions[:length]
        for block in self.blocks:
            x = block(x)
        last = x[torch.arange(len(x), device=x.device), ends]
        return self.final_norm(last) @ self.projection


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.heads, self.quick_gelu = heads, quick_gelu
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(count, length, width))
        hidden = self.up(self.mlp_norm(x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick_gelu else functional.gelu(hidden)
        result: Tensor = x + self.down(hidden)
        return result


_PARTS = {
    "ln_1": "attention_norm",
    "ln_2": "mlp_norm",
    "attn.in_proj_": "qkv.",
    "attn.out_proj": "out",
    "mlp.c_fc": "up",
    "mlp.c_proj": "down",
}


def _own_name(name: str) -> str:
    """Translate open_clip's name of a text-tower parameter into ours; empty for every other name."""
    if name.startswith("ln_final."):
        return name.replace("ln_final", "final_norm")
    if not name.startswith("transformer.resblocks."):
        return ""
    _, _, index, rest = name.split(".", 3)
    for theirs, ours in _PARTS.items():
        if rest.startswith(theirs):
            return f"blocks.{index}.{ours}{rest[len(theirs) :]}"
    return ""
