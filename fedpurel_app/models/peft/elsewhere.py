"""A module's class features, and its logits, at other parameters than its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
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


class _Logits(nn.Module):
    """The logits of a module as what calling it returns."""

    def __init__(self, module: PeftModule) -> None:
        super().__init__()
        self.of = module

    def forward(self, inputs: Tensor) -> Tensor:
        return self.of.logits(inputs)


@torch.no_grad()
def logits_at(module: PeftModule, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Return logits, shape (B, C), at given values of a module's parameters, without a graph and without dropout.

    Parameters
    ----------
    module : PeftModule
        A torch module in training, which it is again afterwards; a graph that was made of it stays whole.
    parameters : mapping of str to Tensor
        By the names on the wire, which need not be those that torch has for them.
    inputs : Tensor
    """
    called = _Logits(module)
    torchs = {id(value): name for name, value in called.named_parameters()}
    values = {torchs[id(own)]: parameters[name] for name, own in module.named_parameters()}
    module.train(False)
    try:
        found: Tensor = functional_call(called, values, (inputs,))
    finally:
        module.train()
    return found
