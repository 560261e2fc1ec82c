"""Two modules of one family as one: what is shared, and what a site has of its own beside it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from torch import Tensor, nn

from fedpurel_app.models.peft.base import FromText, PeftModule


class Composite(FromText):
    """A module around a shared one, through which images are seen. A subclass says what its class features are.

    Parameters
    ----------
    shared : PeftModule
    """

    def __init__(self, shared: PeftModule) -> None:
        self.shared, self.takes, self.logit_scale = shared, shared.takes, shared.logit_scale

    @abstractmethod
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the parameters; those of the shared module are called ``shared.<name>``, others ``own...``."""

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off."""
        self.shared.train(mode)

    def logits_of(self, inputs: Tensor, class_features: Tensor) -> Tensor:
        """Compute logits of other class features, shape (C, D); to (B, C)."""
        return self.shared.logits_of(inputs, class_features)


class Pair(Composite):
    """Two modules, both trained.

    Parameters
    ----------
    shared, own : PeftModule
        Their parameters are called ``shared.<name>`` and ``own.<name>``.
    """

    def __init__(self, shared: PeftModule, own: PeftModule) -> None:
        super().__init__(shared)
        self.own = own

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over both modules' parameters, the shared ones first."""
        for role, module in (("shared", self.shared), ("own", self.own)):
            yield from ((f"{role}.{name}", value) for name, value in module.named_parameters())

    def train(self, mode: bool = True) -> None:
        """Switch dropout of both on or off."""
        self.shared.train(mode)
        self.own.train(mode)
