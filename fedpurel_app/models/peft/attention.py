"""A knob that sees other sites: h of :class:`fedpurel_app.models.peft.pareto.Pareto` as attention among embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedpurel_app.core.tasks import WIDTH
from fedpurel_app.models.peft.knobs import linear

_HEADS, _HIDDEN = 4, 64  # d, of an embedding and of a token, is WIDTH


class Attention(nn.Module):
    """One pre-norm layer of a transformer encoder without positions, read at the token of the own task.

        t_j = W_p p + e_j,   j = 1..K,   the own one first
        a = t_1 + W_a [heads: sum_j softmax_j(q_1 k_j / sqrt(d / 4)) v_j],   q, k, v = W_q, W_k, W_v of LN(t)
        h = W_o (a + W_2 relu(W_1 LN'(a)))

    Of the other tokens only keys and values are needed, so that their own outputs are not computed. All matrices have
    biases. With d = 32, 4 heads and 64 hidden units it has, at m = 2 and r = 8, 96 + 8,544 + 264 = 8,904 numbers.

    Parameters
    ----------
    preferences, rank : int
        m and r.
    generator : torch.Generator
        Matrices and their biases begin as uniform draws from +-1/sqrt(number of inputs).
    learns : bool
        Whether the own embedding e_1 is a parameter, ``embedding``, which begins at zero: in training it takes the
        place of the first row.
    """

    def __init__(self, preferences: int, rank: int, generator: torch.Generator, learns: bool = False) -> None:
        super().__init__()
        self.preference = linear(preferences, WIDTH, generator)
        self.norm_tokens, self.norm_mixed = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.mixed = (linear(WIDTH, WIDTH, generator) for _ in range(4))
        self.inner, self.outer = linear(WIDTH, _HIDDEN, generator), linear(_HIDDEN, WIDTH, generator)
        self.coordinates = linear(WIDTH, rank, generator)
        self.embedding = nn.Parameter(torch.zeros(WIDTH)) if learns else None

    def forward(self, preference: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Map p, shape (m,), and the embeddings, shape (K, 32), the own one first, to coordinates, shape (r,).

        Without embeddings the own task is alone: K = 1 and e_1 = 0, or the parameter.
        """
        tokens = self._tokens(preference, tasks)
        seen = self.norm_tokens(tokens)
        mixed = self._weights(seen) @ self._by_head(self.value(seen))
        own: Tensor = tokens[0] + self.mixed(mixed.reshape(WIDTH))
        own = own + self.outer(self.inner(self.norm_mixed(own)).relu())
        found: Tensor = self.coordinates(own)
        return found

    def attention(self, preference: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Return how much the own token looks at each, mean over heads, shape (K,); it adds up to 1."""
        return self._weights(self.norm_tokens(self._tokens(preference, tasks))).mean(0).squeeze(0)

    def _tokens(self, preference: Tensor, tasks: Tensor | None) -> Tensor:
        rows = preference.new_zeros(1, WIDTH) if tasks is None else tasks
        if self.embedding is not None and (self.training or tasks is None):
            rows = torch.cat([self.embedding[None], rows[1:]])
        tokens: Tensor = self.preference(preference) + rows
        return tokens

    def _weights(self, seen: Tensor) -> Tensor:
        """Return the attention of the first of K normalised tokens to all of them, shape (heads, 1, K)."""
        query, keys = self._by_head(self.query(seen[:1])), self._by_head(self.key(seen))
        return (query @ keys.mT / math.sqrt(WIDTH // _HEADS)).softmax(-1)

    @staticmethod
    def _by_head(values: Tensor) -> Tensor:
        """Cut rows, shape (K, d), into (heads, K, d / heads)."""
        return values.unflatten(-1, (_HEADS, -1)).transpose(0, 1)
