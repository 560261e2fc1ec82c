"""A module of one matrix, shared, and a low-rank matrix of a site's own that is added to it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedpurel_app.models.peft.base import PeftModule
from fedpurel_app.models.peft.elsewhere import class_features_at
from fedpurel_app.models.peft.pair import Composite

_DEVIATION = 0.02


class LowRank(Composite):
    """sigma + U V in the place of a module's one parameter sigma.

    Parameters
    ----------
    shared : PeftModule
        Of one parameter, shape (n, d); called ``shared.<name>``.
    rank : int
        b of U (n, b) and V (b, d), called ``own.U`` and ``own.V``.
    generator : torch.Generator
        Both begin with draws from N(0, 0.02).
    """

    def __init__(self, shared: PeftModule, rank: int, generator: torch.Generator) -> None:
        super().__init__(shared)
        ((self._name, self._sigma),) = shared.named_parameters()
        rows, columns = self._sigma.shape
        u, v = (_DEVIATION * torch.randn(shape, generator=generator) for shape in ((rows, rank), (rank, columns)))
        self._u, self._v = (nn.Parameter(one.to(self._sigma)) for one in (u, v))

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over sigma, U and V."""
        yield from ((f"shared.{self._name}", self._sigma), ("own.U", self._u), ("own.V", self._v))

    def class_features(self) -> Tensor:
        """Return the text features of all classes at sigma + U V, shape (C, D), L2-normalised."""
        return class_features_at(self.shared, {self._name: self._sigma + self._u @ self._v})
