"""The transformer block of both CLIP towers, with the attention's projections as layers of their own.

open_clip keeps query, key and value in one matrix, which gives an adapter no name to attach to. Here they are three
Linear layers with exactly its weights, and nothing is imported but torch: a process that trains on cached features
never spends the seconds that open_clip's import takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_PARTS = {
    "ln_1": "attention_norm",
    "ln_2": "mlp_norm",
    "attn.out_proj": "attention.out",
    "mlp.c_fc": "up",
    "mlp.c_proj": "down",
}


class Attention(nn.Module):
    """Query, key, value and output projections; the mixing is left to the caller.

    Parameters
    ----------
    width, heads : int

    Notes
    -----
    As long as nothing is attached to q, k or v, the three are computed as one matrix product, which is faster. Their
    weights are views of its matrix on the CPU; moved to a GPU they take memory of their own.
    """

    fused_weight: Tensor | None
    fused_bias: Tensor | None

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.register_buffer("fused_weight", torch.empty(3 * width, width))
        self.register_buffer("fused_bias", torch.empty(3 * width))

    def unfuse(self) -> None:
        """Compute q, k and v each by its own layer from now on."""
        self.fused_weight = self.fused_bias = None

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute query, key and value; (..., W) to three of (..., W)."""
        if self.fused_weight is None:
            return self.q(x), self.k(x), self.v(x)
        query, key, value = functional.linear(x, self.fused_weight, self.fused_bias).chunk(3, -1)
        return query, key, value

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix values head by head; (N, L, W) and twice (N, K, W) to (N, L, W). Mask of (L, K): true where seen."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Pre-norm residual block: attention, then a two-layer perceptron.

    Parameters
    ----------
    width, heads, hidden : int
        ``hidden`` is the perceptron's width.
    activation : {"gelu", "gelu-tanh", "quick-gelu"}
        ``quick-gelu``: x·sigmoid(1.702 x), as in OpenAI's own checkpoints.
    epsilon : float
        Of the layer norms.
    """

    def __init__(self, width: int, heads: int, hidden: int, activation: str, epsilon: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activate = _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Let every position see every other; shapes (N, L, W) to (N, L, W)."""
        return self.finish(x, self.attention.mix(*self.attention.project(self.attention_norm(x))))

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add the attention output, then the MLP output, to the residual stream."""
        x = x + self.attention.out(mixed)
        result: Tensor = x + self.down(self.activate(self.up(self.mlp_norm(x))))
        return result


def quick_gelu(x: Tensor) -> Tensor:
    """Compute x·sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu-tanh": partial(functional.gelu, approximate="tanh"),
    "quick-gelu": quick_gelu,
}


def make_blocks(weights: Mapping[str, Tensor], prefix: str, config: Mapping[str, Any], quick: bool) -> nn.ModuleList:
    """Build the blocks of a tower from open_clip's weights, by exact copy.

    Parameters
    ----------
    weights : mapping of str to Tensor
        State of an open_clip model.
    prefix : str
        What the names of the tower's blocks start with, up to the block's number: ``transformer.resblocks.``.
    config : mapping
        open_clip's ``text_cfg`` or ``vision_cfg``, with ``heads``.
    quick : bool
        Whether the model uses QuickGELU.

    Returns
    -------
    ModuleList of Block
        Frozen, in evaluation mode, sharing memory with ``weights`` where the form is the same.

    Raises
    ------
    RuntimeError
        Naming the weights that are missing or of another shape.
    """
    own = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    depth = 1 + max((int(name.split(".")[0]) for name in own), default=-1)
    state: dict[str, Tensor] = {}
    for name, value in own.items():
        index, rest = name.split(".", 1)
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            state[f"{index}.attention.fused_{kind}"] = value
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                state[f"{index}.attention.{part}.{kind}"] = piece
            continue
        for theirs, ours in _PARTS.items():
            if rest.startswith(theirs):
                state[f"{index}.{ours}{rest[len(theirs) :]}"] = value
                break
        else:
            state[name] = value  # what has no place here is named by load_state_dict
    width = int(config["width"])
    hidden = int(width * config.get("mlp_ratio", 4.0))
    tanh = (config.get("act_kwargs") or {}).get("approximate") == "tanh"
    activation = "quick-gelu" if quick else "gelu-tanh" if tanh else "gelu"
    epsilon = float((config.get("norm_kwargs") or {}).get("eps", 1e-5))
    with torch.device("meta"):
        blocks = nn.ModuleList(Block(width, int(config["heads"]), hidden, activation, epsilon) for _ in range(depth))
    blocks.load_state_dict(state, assign=True)
    return blocks.requires_grad_(False).eval()


def unsupported(config: Mapping[str, Any]) -> list[str]:
    """List what a tower's open_clip config has that these blocks lack."""
    custom = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
    found = [name for name in (*custom, "ls_init_value", "block_type") if config.get(name)]
    extra = set(config.get("norm_kwargs") or {}) - {"eps"} | set(config.get("act_kwargs") or {}) - {"approximate"}
    return found + sorted(extra)
