"""What a federated fine-tuning method is: its steps, what it sends, and how its models predict.

The training loop, the site, the wire, the server, the evaluation, ``predict`` and ``export`` are the same for all
methods, and ask a value of :class:`Algorithm` for what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.base import PeftModule, Role

Options = Mapping[str, Any]  # a method's keys and their values
Metrics = dict[str, Tensor]  # scalars, averaged over the steps of a visit
_SCALE = 2.0**10  # keeps small gradients in the range of half precision; a power of two costs no accuracy


class Facts(NamedTuple):
    """What a method may know where it works.

    Attributes
    ----------
    counts : Tensor of int64, shape (C,), or None
        The site's own training images by class. Never sent for a method's sake. None at the server.
    prior : Tensor, shape (C,), or None
        Training images by class of the whole federation; None at a site with data of its own.
    zero_shot_text : Tensor, shape (C, D), or None
        T, the L2-normalised text features of zero-shot CLIP.
    """

    counts: Tensor | None = None
    prior: Tensor | None = None
    zero_shot_text: Tensor | None = None


@dataclass
class Batch:
    """One step: a batch, the forward pass that was made of it, and the ways back to the parameters.

    Attributes
    ----------
    inputs : Tensor
        Image features, shape (B, D), not normalised, or uint8 pixels, shape (B, 3, H, W): what the module takes.
    labels : Tensor of int64, shape (B,)
    output : Tensor, shape (B, C)
        The module's logits with their graph.
    reference : Tensor, shape (B, C)
        Logits of the frozen model that the visit names: zero-shot CLIP, or the global model.
    module : PeftModule
    trained : list of Parameter
        The module's parameters, in the order of their names in it.
    anchor : list of Tensor
        The global branch's parameters as the site received them, in the same order.
    facts : Facts
    options : mapping
        The method's keys.
    rate : float
        The learning rate.
    generator : torch.Generator
        On the CPU; what a rule draws.
    """

    inputs: Tensor
    labels: Tensor
    output: Tensor
    reference: Tensor
    module: PeftModule
    trained: list[torch.nn.Parameter]
    anchor: list[Tensor]
    facts: Facts
    options: Options
    rate: float
    generator: torch.Generator

    @cached_property
    def logits(self) -> Tensor:
        """The module's logits without a graph, shape (B, C), for closed forms."""
        return self.output.detach()

    def pull_back(self, cotangent: Tensor) -> list[Tensor]:
        """Return the gradient of every parameter from a gradient at the logits, shape (B, C)."""
        scaled = (_SCALE * cotangent).to(self.output.dtype)
        return [part / _SCALE for part in torch.autograd.grad(self.output, self.trained, scaled, retain_graph=True)]

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """Return the gradient of every parameter of a scalar loss, which autograd finds: of output, or of the module.

        Parameters that the loss does not depend on have zeros.
        """
        found = torch.autograd.grad(
            _SCALE * loss, self.trained, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return [part / _SCALE for part in found]


Rule = Callable[[Batch], tuple[list[Tensor], Metrics]]  # the gradient of every parameter, and what is reported
Names = Callable[[Sequence[str], Options], Collection[str]]  # from all names, in the module's order, to some
Compose = Callable[[Callable[[Role], PeftModule], Options], PeftModule]  # from a maker of the family's modules


def everything(names: Sequence[str], options: Options) -> Collection[str]:
    """Choose every parameter."""
    return names


@dataclass(frozen=True)
class Visit:
    """What a site does in one kind of round.

    Attributes
    ----------
    rule : callable
        From a :class:`Batch` to the gradient of every parameter and scalars that are reported. The loop adds weight
        decay and momentum, and takes the step.
    sends : callable
        From the names of all parameters, in the module's order, and the options to those that are sent and averaged;
        the others stay with the site's private state. In a personal round nothing is sent.
    reference : {"zero-shot", "global"}
        Whose logits a batch has beside the module's own.
    """

    rule: Rule
    sends: Names = everything
    reference: Literal["zero-shot", "global"] = "zero-shot"


@dataclass(frozen=True)
class Models:
    """What a site, or the server, has to predict with.

    Attributes
    ----------
    shared : PeftModule
        The module of global rounds; at a site with what it keeps of it.
    private : PeftModule or None
        That of personal rounds; None at the server, and in methods without such rounds.
    """

    shared: PeftModule
    private: PeftModule | None = None


Model = tuple[PeftModule, ...]  # modules whose logits add up


def plain(build: Callable[[Role], PeftModule], options: Options) -> PeftModule:
    """Compose nothing: the family's own module."""
    return build("global")


def shared_alone(models: Models) -> Model:
    """Predict by the module of global rounds."""
    return (models.shared,)


@dataclass(frozen=True)
class Algorithm:
    """A method.

    Attributes
    ----------
    visits : mapping of Phase to Visit
        A method without personal rounds has one for global rounds alone.
    compose : callable
        Makes the module of global rounds from modules of the family; its parameters' names are the names on the wire
        and in files.
    global_model : callable
        From :class:`Models` to the modules whose logits add up to those of the global model (GM).
    personalized : callable or None
        The same of the personalized model (PM), once the site has trained its private part; None: there is no other
        model than the global one.
    bias : callable or None
        From facts and options to what is added to the logits of both models in predictions, shape (C,), or to None.

    Raises
    ------
    ValueError
        When it has no global visit, or its personal one names what is sent: nothing is.
    """

    visits: Mapping[Phase, Visit]
    compose: Compose = plain
    global_model: Callable[[Models], Model] = shared_alone
    personalized: Callable[[Models], Model] | None = None
    bias: Callable[[Facts, Options], Tensor | None] | None = None

    def __post_init__(self) -> None:
        if Phase.GLOBAL not in self.visits:
            raise ValueError("a method needs a visit for global rounds, in which the shared parameters are trained.")
        if self.has_personal_rounds and self.visits[Phase.PERSONAL].sends is not everything:
            raise ValueError("a personal visit cannot choose what it sends: in personal rounds nothing is sent.")

    @property
    def has_personal_rounds(self) -> bool:
        """Whether sites train a private module in rounds of its own."""
        return Phase.PERSONAL in self.visits

    @property
    def keeps_parts(self) -> bool:
        """Whether sites keep a part of what they train in global rounds to themselves."""
        return self.visits[Phase.GLOBAL].sends is not everything

    def sent(self, shared: PeftModule, options: Options) -> frozenset[str]:
        """Return the names of the shared module's parameters that are sent and averaged."""
        names = [name for name, _ in shared.named_parameters()]
        return frozenset(self.visits[Phase.GLOBAL].sends(names, options))

    def is_known(self, shared: PeftModule, options: Options) -> bool:
        """Tell whether what is sent makes up the global model, so that the server has all of it."""
        sent = self.sent(shared, options)
        there = {id(value) for name, value in shared.named_parameters() if name in sent}
        parts = self.global_model(Models(shared))
        return all(id(value) in there for part in parts for _, value in part.named_parameters())
