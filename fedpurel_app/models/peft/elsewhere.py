"""A module's class features, and its logits, at other parameters than its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedpurel_app.models.peft.base import Logits, PeftModule


class _Called(nn.Module):
    """A module, one of whose methods is what calling it does."""

    def __init__(self, module: PeftModule, method: str) -> None:
        super().__init__()
        self.of, self._method = module, method

    def forward(self, *inputs: Tensor) -> Any:
        return getattr(self.of, self._method)(*inputs)


def at_parameters(module: PeftModule, method: str, parameters: Mapping[str, Tensor], *inputs: Tensor) -> Any:
    """Call a method of a torch module at given values of its parameters, by their names on the wire."""
    called = _Called(module, method)
    torchs = {id(value): name for name, value in called.named_parameters()}  # which need not be those on the wire
    values = {torchs[id(own)]: parameters[name] for name, own in module.named_parameters()}
    return functional_call(called, values, inputs)


def class_features_at(module: PeftModule, parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the text features of all classes, shape (C, D), at given values of a module's parameters, with a graph.

    Parameters
    ----------
    module : PeftModule
        A torch module.
    parameters : mapping of str to Tensor
        By their names on the wire.
    """
    found: Tensor = at_parameters(module, "class_features", parameters)
    return found


def frozen_at(module: PeftModule, parameters: Mapping[str, Tensor]) -> Logits:
    """Return the function from inputs to logits at given values of a module's parameters, without a graph or dropout.

    Text features are encoded once.

    Parameters
    ----------
    module : PeftModule
        A torch module in training, which it is again after every call; a graph that was made of it stays whole.
    parameters : mapping of str to Tensor
        By their names on the wire; constant for as long as the function is used.
    """

    @torch.no_grad()
    def at_rest(method: str, *inputs: Tensor) -> Tensor:
        module.train(False)
        try:
            found: Tensor = at_parameters(module, method, parameters, *inputs)
            return found
        finally:
            module.train()

    text = at_rest("class_features")
    return lambda inputs: at_rest("logits_of", inputs, text)
