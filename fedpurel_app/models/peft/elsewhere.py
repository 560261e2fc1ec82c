"""A module's class features at other parameters than its own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call

from fedpurel_app.models.peft.base import PeftModule


class _Features(nn.Module):
    """The class features of a module as what calling it returns."""

    def __init__(self, module: PeftModule) -> None:
        super().__init__()
        self.of = module

    def forward(self) -> Tensor:
        return self.of.class_features()


def class_features_at(module: PeftModule, parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the text features of all classes, shape (C, D), at given values of a module's parameters, with a graph.

    Parameters
    ----------
    module : PeftModule
        A torch module whose parameters bear its own names for them, as all that are one matrix do.
    parameters : mapping of str to Tensor
    """
    found: Tensor = functional_call(_Features(module), {f"of.{name}": value for name, value in parameters.items()}, ())
    return found
