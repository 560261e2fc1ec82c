"""A context of all classes and one of each, added to one another."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedpurel_app.models.peft.base import PeftModule
from fedpurel_app.models.peft.elsewhere import class_features_at
from fedpurel_app.models.peft.pair import Composite


class TwoContexts(Composite):
    """Class prompts whose context is v + w_c.

    Parameters
    ----------
    module : PeftModule
        A prompt with a context for each class, shape (C, n, d); that of the first class is where v begins.
    """

    def __init__(self, module: PeftModule) -> None:
        super().__init__(module)
        ((self._name, context),) = module.named_parameters()
        self._general = nn.Parameter(context.detach()[0].clone())
        self._classes = nn.Parameter(torch.zeros_like(context))

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over v, shape (n, d), called ``general``, and w, shape (C, n, d), called ``classes``."""
        yield from (("general", self._general), ("classes", self._classes))

    def class_features(self) -> Tensor:
        """Encode all class prompts, shape (C, D), L2-normalised."""
        return class_features_at(self.shared, {self._name: self._general + self._classes})

    def at(self, classes: Tensor) -> TwoContexts:
        """Return a module for predictions, with the same v and another w."""
        other = TwoContexts(self.shared)
        other._general, other._classes = self._general, nn.Parameter(classes)
        return other
