"""Modules of one family whose text features meet the patches of every image, by optimal transport."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fedpurel_app.functional.transport import transport_logits
from fedpurel_app.models.peft.base import PeftModule
from fedpurel_app.models.peft.pair import Composite


class Transport(Composite):
    """N modules, each with features of all classes, and what is transported between these and patches.

    Its inputs are features of patches, shape (B, M, D), L2-normalised, in whatever precision and on whatever device.

    Parameters
    ----------
    prompts : mapping of str to PeftModule
        ``shared``, and where there is one ``own``: parameters are called ``shared.<name>`` and ``own.<name>``.
    mass, epsilon : float
        See :func:`fedpurel_app.functional.transport_plan`.
    """

    def __init__(self, prompts: Mapping[str, PeftModule], mass: float, epsilon: float) -> None:
        super().__init__(prompts["shared"])
        self.takes = "patches"
        self._prompts, self._mass, self._epsilon = prompts, mass, epsilon

    def alone(self) -> Transport:
        """Return the shared module by itself, to which all of the mass goes."""
        return Transport({"shared": self.shared}, self._mass, self._epsilon)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the parameters of all modules, the shared ones first."""
        for role, module in self._prompts.items():
            yield from ((f"{role}.{name}", value) for name, value in module.named_parameters())

    def train(self, mode: bool = True) -> None:
        """Switch dropout of all on or off."""
        for module in self._prompts.values():
            module.train(mode)

    def class_features(self) -> Tensor:
        """Return the text features of all classes by every module, shape (N, C, D)."""
        return torch.stack([module.class_features() for module in self._prompts.values()])

    def logits_of(self, inputs: Tensor, class_features: Tensor) -> Tensor:
        """Compute logits of other class features, shape (N, C, D); to (B, C)."""
        patches = inputs.to(class_features)
        return self.logit_scale * transport_logits(patches, class_features, self._mass, self._epsilon)
