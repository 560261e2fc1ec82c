"""CLIP's text tower, from its weights alone, for prompts that begin alike.

Under the causal mask no position sees what comes after it. Positions behind the end-of-text token are therefore dead,
and a beginning that all prompts share is encoded once: every class attends to its keys and values. The last block is
computed for the end-of-text tokens alone. All three are exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from fedpurel_app.models.transformer import Block, make_blocks, unsupported


@dataclass(frozen=True)
class Layout:
    """How the prompts of a set of classes lie in memory: without padding, prompts of one length side by side.

    Attributes
    ----------
    order : tuple of int, length C
        Classes, by length.
    groups : tuple of (int, int)
        Number of prompts and their length, for each length, ascending.
    positions : Tensor of int64, shape (T,)
        Position of every token within its prompt.
    ends : Tensor of int64, shape (C,)
        Row of every prompt's last token, in this order.
    ranks : Tensor of int64, shape (C,)
        Place of every class in the order.
    """

    order: tuple[int, ...]
    groups: tuple[tuple[int, int], ...]
    positions: Tensor
    ends: Tensor
    ranks: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | None = None) -> Layout:
        """Lay out prompts of these lengths, one for each class."""
        order = sorted(range(len(lengths)), key=lambda index: lengths[index])
        sizes = [lengths[index] for index in order]
        groups = tuple((sizes.count(length), length) for length in sorted(set(sizes)))
        positions = [position for length in sizes for position in range(length)]
        ends = [end - 1 for end in itertools.accumulate(sizes)]
        ranks = sorted(range(len(order)), key=order.__getitem__)
        return cls(tuple(order), groups, *(torch.tensor(rows, device=device) for rows in (positions, ends, ranks)))

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return self.groups[-1][1]


class LaidOut(NamedTuple):
    """Prompts as a tower takes them, without positions.

    Attributes
    ----------
    prefix : Tensor, shape (P, width)
        Embeddings of the first tokens of every prompt; at least one.
    suffixes : Tensor, shape (T, width)
        Embeddings of the rest of every prompt, up to its end-of-text token, in the order of the layout.
    layout : Layout
        Of the suffixes.
    """

    prefix: Tensor
    suffixes: Tensor
    layout: Layout


class TextTower(nn.Module):
    """A frozen pre-norm transformer over prompt embeddings.

    Parameters
    ----------
    weights : mapping of str to Tensor
        State of an open_clip model; only the names of its text tower are read.
    config : mapping
        open_clip's ``text_cfg``: ``width``, ``heads`` and what deviates from the default form.
    quick_gelu : bool
        Activation of OpenAI's own checkpoints instead of GELU.

    Notes
    -----
    Gives what open_clip's ``encode_text`` gives, up to rounding.
    """

    token_embedding: Tensor
    positions: Tensor
    projection: Tensor

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any], quick_gelu: bool = False) -> None:
        super().__init__()
        prefix = "text." if "text.positional_embedding" in weights else ""
        self.register_buffer("token_embedding", weights[f"{prefix}token_embedding.weight"], persistent=False)
        self.register_buffer("positions", weights[f"{prefix}positional_embedding"], persistent=False)
        self.register_buffer("projection", weights[f"{prefix}text_projection"], persistent=False)
        self.blocks = make_blocks(weights, f"{prefix}transformer.resblocks.", config, quick_gelu)
        self.final_norm = nn.LayerNorm(self.width, float((config.get("norm_kwargs") or {}).get("eps", 1e-5)))
        final = {name: weights[f"{prefix}ln_final.{name}"] for name in ("weight", "bias")}
        self.final_norm.load_state_dict(final, assign=True)
        self.requires_grad_(False).eval()

    @staticmethod
    def unsupported(config: Mapping[str, Any]) -> list[str]:
        """List what an open_clip ``text_cfg`` has that this tower and CLIP's tokenizer lack; empty for CLIP's own."""
        found = unsupported(config)
        other = ("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs", "embed_cls", "no_causal_mask", "proj_bias")
        found += [name for name in other if config.get(name)]
        expected = {"pool_type": "argmax", "proj_type": "linear"}
        return found + [
            f"{name} = {config[name]}" for name, value in expected.items() if config.get(name, value) != value
        ]

    @property
    def width(self) -> int:
        """Width of the token embeddings."""
        return int(self.token_embedding.shape[1])

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Look up token embeddings, without positions; L tokens to shape (L, width)."""
        return self.token_embedding[torch.tensor(tokens, dtype=torch.int64, device=self.token_embedding.device)]

    def encode(self, prompts: LaidOut) -> Tensor:
        """Encode prompts that share a beginning.

        Parameters
        ----------
        prompts : LaidOut

        Returns
        -------
        Tensor, shape (C, D)
            Text features in the order of the classes, not normalised.

        Raises
        ------
        ValueError
            When the prompts are longer than the tower's positions.
        """
        prefix, suffixes, layout = prompts
        shared = len(prefix)
        if shared + layout.longest > len(self.positions):
            raise ValueError(
                f"a prompt has {shared + layout.longest} tokens; this text tower takes {len(self.positions)}"
            )
        start, rest = prefix + self.positions[:shared], suffixes + self.positions[layout.positions + shared]
        x = torch.cat([start, rest])
        masks = [_causal(0, shared, x.device)]
        masks += [_causal(shared, length, x.device) for _, length in layout.groups]
        *lower, top = cast("list[Block]", list(self.blocks))
        for index, block in enumerate(lower):
            projections: tuple[Tensor, ...]
            if index:
                projections = block.attention.project(block.attention_norm(x))
            else:
                projections = _first_projections(block, start, rest)
            x = _all_rows(block, x, projections, shared, layout, masks)
        x = _last_rows(top, x, shared, layout)
        features: Tensor = self.final_norm(x) @ self.projection
        return features[layout.ranks]


def _causal(before: int, length: int, device: torch.device) -> Tensor:
    """Return the mask of tokens that see themselves, what is left of them, and all that comes before."""
    return torch.ones(length, before + length, dtype=torch.bool, device=device).tril(before)


def _first_projections(block: Block, start: Tensor, rest: Tensor) -> tuple[Tensor, ...]:
    """Return query, key and value of the first block; constant suffixes apart, so that they cost no gradient."""
    parts = [block.attention.project(block.attention_norm(rows)) for rows in (start, rest)]
    return tuple(torch.cat(pair) for pair in zip(*parts, strict=True))


def _all_rows(
    block: Block, x: Tensor, projections: Sequence[Tensor], shared: int, layout: Layout, masks: Sequence[Tensor]
) -> Tensor:
    """Apply a block to the prefix and all suffixes; shapes (P + T, W) to (P + T, W)."""
    mix = block.attention.mix
    sizes = [shared, *(count * length for count, length in layout.groups)]
    # Split, not sliced: the gradient of a slice is a tensor of zeros as large as the whole.
    query, key, value = (part.split(sizes) for part in projections)
    mixed = [mix(query[0].unsqueeze(0), key[0].unsqueeze(0), value[0].unsqueeze(0), masks[0]).squeeze(0)]
    for index, (count, length) in enumerate(layout.groups, 1):
        queries = query[index].unflatten(0, (count, length))
        keys, values = (_behind_prefix(part[0], part[index], count, length) for part in (key, value))
        mixed.append(mix(queries, keys, values, masks[index]).flatten(0, 1))
    return block.finish(x, torch.cat(mixed))


def _last_rows(block: Block, x: Tensor, shared: int, layout: Layout) -> Tensor:
    """Apply a block to the end-of-text tokens alone, which see all of their prompts; shapes (P + T, W) to (C, W)."""
    attention, normed = block.attention, block.attention_norm(x)
    sizes = [shared, *(count * length for count, length in layout.groups)]
    ends = layout.ends + shared
    query = attention.q(normed[ends]).split([count for count, _ in layout.groups])
    key, value = (part(normed).split(sizes) for part in (attention.k, attention.v))
    mixed = []
    for index, (count, length) in enumerate(layout.groups):
        keys, values = (_behind_prefix(part[0], part[1 + index], count, length) for part in (key, value))
        mixed.append(attention.mix(query[index].unsqueeze(1), keys, values).squeeze(1))
    return block.finish(x[ends], torch.cat(mixed))


def _behind_prefix(prefix: Tensor, rows: Tensor, count: int, length: int) -> Tensor:
    """Put the prefix before every prompt of a group: (P, W) and (n·L, W) to (n, P + L, W)."""
    return torch.cat([prefix.expand(count, -1, -1), rows.unflatten(0, (count, length))], 1)
