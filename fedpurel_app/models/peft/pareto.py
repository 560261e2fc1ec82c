"""A module of any family with a knob: its parameters go along a basis as a preference among losses asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy
from typing import cast

import torch
from torch import Tensor, nn

from fedpurel_app.models.peft.base import Logits, PeftModule, load_parameters
from fedpurel_app.models.peft.elsewhere import at_parameters
from fedpurel_app.models.peft.knobs import Knob

OWN, SHARED = "own.", "h."  # before the names of what stays with a site, and of what sites share


def family_part(module: PeftModule) -> PeftModule:
    """Return what of a private module is the family's own: of one with a knob its base, of others all."""
    return module.base if isinstance(module, Pareto) else module


class Pareto:
    """Logits f(x; phi(p)) - s(p) log pi, with phi(p) = phi0 + B h(p) / sqrt(r).

    In training every pass draws preferences p, uniform over the simplex, by torch's own generator, as dropout draws;
    its logits then have the shape (B, n, C). In use p is :attr:`preference`, and they have the shape (B, C).

    Parameters
    ----------
    base : PeftModule
        Whose parameters are phi0; called ``own.<name>``.
    knob : Knob or None
        h; called ``h.<name>``. None where r = 0.
    preferences, rank : int
        m and r. B has the shape (..., r) for a parameter of shape (...), begins at zero and is called
        ``own.basis.<name>``. With r = 0 there are neither B nor h, and phi(p) = phi0.
    draws : int
        n, preferences for each batch in training.
    shifts : bool
        Whether s(p) = p_2, the weight of the loss in which all classes count alike; else 0.

    Attributes
    ----------
    knob : Knob or None
        As given.
    preference : Tensor, shape (m,)
        In use; at first (1, 0, ...).
    drawn : Tensor, shape (n, m)
        Of the last pass in training.
    log_prior : Tensor, shape (C,), or None
        log pi; None before it is known, when nothing is shifted.
    tasks : Tensor, shape (K, d), or None
        What h is told of the problems of all sites, the own one first; None where it is told nothing.
    """

    def __init__(
        self, base: PeftModule, knob: Knob | None, preferences: int, rank: int, draws: int = 1, shifts: bool = True
    ) -> None:
        self.base, self.takes, self.logit_scale = base, base.takes, base.logit_scale
        self.knob, self._rank, self._shifts = knob, rank, shifts
        self._phi = dict(base.named_parameters())
        # Beside the base's parameters: one device for all of it.
        some = next(iter(self._phi.values()))
        if knob is not None:
            cast(nn.Module, knob).to(some.device).eval()
        self._basis = {
            name: nn.Parameter(torch.zeros(*value.shape, rank, device=value.device, dtype=value.dtype))
            for name, value in (self._phi.items() if rank else ())
        }
        self.preference = torch.eye(preferences, device=some.device)[0]
        self.drawn = self.preference.expand(draws, preferences)
        self.log_prior: Tensor | None = None
        self.tasks: Tensor | None = None
        self._training = False

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over phi0, then B, then h."""
        yield from ((OWN + name, value) for name, value in self._phi.items())
        yield from ((f"{OWN}basis.{name}", value) for name, value in self._basis.items())
        if self.knob is not None:
            yield from ((SHARED + name, value) for name, value in cast(nn.Module, self.knob).named_parameters())

    def train(self, mode: bool = True) -> None:
        """Switch dropout, and drawing, on or off."""
        self._training = mode
        if self.knob is not None:
            cast(nn.Module, self.knob).train(mode)
        self.base.train(mode)

    def parameters_at(self, preference: Tensor) -> dict[str, Tensor]:
        """Return phi(p) by the base's names, with its graph."""
        if self.knob is None:
            return dict(self._phi)
        # Over sqrt(r), or the basis would raise the rate r-fold.
        coordinates = self.knob(preference, self.tasks) / math.sqrt(self._rank)
        return {name: value + self._basis[name] @ coordinates for name, value in self._phi.items()}

    def class_features(self) -> Tensor:
        """Return the text features of all classes at :attr:`preference`, shape (C, D), L2-normalised."""
        found: Tensor = at_parameters(self.base, "class_features", self.parameters_at(self.preference))
        return found

    def logits(self, inputs: Tensor) -> Tensor:
        """Compute logits, shape (B, n, C) in training, else (B, C)."""
        return self.with_text(inputs)[0]

    def with_text(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits, and the text features of the last preference, shape (C, D)."""
        if not self._training:
            return self._at(self.preference, inputs)
        # Dirichlet(1, ..., 1): exponential draws over their sum. On the CPU, so that all devices draw the same.
        draws = torch.empty(self.drawn.shape).exponential_()
        self.drawn = (draws / draws.sum(1, keepdim=True)).to(self.drawn)
        logits, texts = zip(*(self._at(preference, inputs) for preference in self.drawn), strict=True)
        return torch.stack(logits, 1), texts[-1]

    def _at(self, preference: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits, text = at_parameters(self.base, "with_text", self.parameters_at(preference), inputs)
        bias = self.bias_at(preference)
        return (logits if bias is None else logits + bias), text

    def logits_of(self, inputs: Tensor, class_features: Tensor) -> Tensor:
        """Compute logits at :attr:`preference` of other class features, shape (C, D); to (B, C)."""
        values = self.parameters_at(self.preference)
        logits: Tensor = at_parameters(self.base, "logits_of", values, inputs, class_features)
        bias = self.bias_at(self.preference)
        return logits if bias is None else logits + bias

    def frozen(self) -> Logits:
        """Return the function from inputs to logits at :attr:`preference`."""
        with torch.no_grad():
            values = self.parameters_at(self.preference)
            text = at_parameters(self.base, "class_features", values)
        bias = self.bias_at(self.preference)

        def logits(inputs: Tensor) -> Tensor:
            found: Tensor = at_parameters(self.base, "logits_of", values, inputs, text)
            return found if bias is None else found + bias

        return logits

    def bias_at(self, preference: Tensor) -> Tensor | None:
        """Return -s(p) log pi, shape (C,); None where it is nothing."""
        if self.log_prior is None or not self._shifts:
            return None
        return -preference[1] * self.log_prior

    def at(self, preference: Tensor, log_prior: Tensor | None, tasks: Tensor | None = None) -> Pareto:
        """Return a module for predictions, of the same parameters at another preference."""
        other = copy(self)
        other.preference, other.log_prior, other.tasks = preference.to(self.preference), log_prior, tasks
        other._training = False
        return other

    def settle(self, into: PeftModule) -> Tensor | None:
        """Copy phi(p) into another module of the family, which then is this one but for its bias; return that."""
        with torch.no_grad():
            load_parameters(into, self.parameters_at(self.preference))
        return self.bias_at(self.preference)
