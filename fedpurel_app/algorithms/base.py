"""What a federated fine-tuning method is, as data.

A method says how a client turns logits into gradients, which parameters it shares, and what it keeps for itself. The
training loop, the wire and the server are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Options:
    """Numbers that methods read; one run has one of them.

    Attributes
    ----------
    projection_scope : {"global", "tensor"}
        One inner product over all parameters, or one for each tensor.
    align_gradient : {"frozen", "implicit"}
        Gradient of the temperature-aligned KL with constant temperatures, or with its radial part removed.
    align_loss : {"tkl", "kl"}
        Whether FedPuReL's regulariser aligns temperatures.
    penalty_weight : float
        mu, weight of an added regulariser.
    private_weight : float
        lambda, weight of the private branch's own loss in phase 2.
    """

    projection_scope: Literal["global", "tensor"] = "global"
    align_gradient: Literal["frozen", "implicit"] = "frozen"
    align_loss: Literal["tkl", "kl"] = "tkl"
    penalty_weight: float = 1.0
    private_weight: float = 0.9


class Regulariser(NamedTuple):
    """A regulariser's value and its gradient at the student's logits.

    Attributes
    ----------
    gradient : Tensor, shape (B, C)
        Of the batch mean.
    loss : Tensor, shape ()
        [nats]
    tkl : Tensor or None, shape ()
        Mean TKL metric of the batch, where the regulariser yields it for nothing.
    """

    gradient: Tensor
    loss: Tensor
    tkl: Tensor | None


@dataclass(frozen=True)
class Algorithm:
    """A method.

    Attributes
    ----------
    name : str
        Value of the run-config key ``algorithm``.
    title : str
        As printed in tables.
    paper : str
    regulariser : callable or None
        From student logits (B, C), zero-shot logits (B, C) and the options to a :class:`Regulariser`; None for plain
        cross-entropy.
    gradient_rule : {"add", "purify"}
        Whether the regulariser's gradient is added to the task gradient, or only used to purify it.
    personalization : {"residual"} or None
        What clients train privately in personal rounds; None for a method without a private part.
    """

    name: str
    title: str
    paper: str
    regulariser: Callable[[Tensor, Tensor, Options], Regulariser] | None = None
    gradient_rule: Literal["add", "purify"] = "add"
    personalization: Literal["residual"] | None = None
