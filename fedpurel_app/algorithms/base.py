"""What a federated fine-tuning method is: its steps, what it sends, and how its models predict.

The training loop, the site, the wire, the server, the evaluation, ``predict`` and ``export`` are the same for all
methods, and ask a value of :class:`Algorithm` for what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fedpurel_app.algorithms.models import Held, Model, Models
from fedpurel_app.algorithms.step import Balance, Batch, Begun, Facts, Memory, Metrics, Options, Visited
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.base import PeftModule, Role

__all__ = [
    "Algorithm",
    "Balance",
    "Batch",
    "Begin",
    "Begun",
    "Compose",
    "End",
    "Facts",
    "Held",
    "Maker",
    "Memory",
    "Metrics",
    "Model",
    "Models",
    "Names",
    "Options",
    "Rule",
    "Visit",
    "Visited",
    "names_of_shared",
    "nothing",
    "own_branch",
    "plain",
    "shapes_of",
    "shared_alone",
    "shared_half",
    "under",
    "without_own",
]

Begin = Callable[[Begun], None]
End = Callable[[Visited], None]
Rates = Callable[[float, Options], Mapping[str, float]]
Rule = Callable[[Batch], tuple[list[Tensor], Metrics]]  # the gradient of every parameter, and what is reported
Names = Callable[[Sequence[str], Options], Collection[str]]  # from all names, in the module's order, to some


class Maker(Protocol):
    """Makes modules of the run's family."""

    def __call__(self, role: Role, **options: Any) -> PeftModule:
        """Make a module; ``options`` take the place of the run's for the family's keys, with underscores."""
        ...


Compose = Callable[[Maker, Options, torch.Generator], PeftModule]  # the generator is for what else is drawn


@dataclass(frozen=True)
class Visit:
    """What a site does in one kind of round.

    Attributes
    ----------
    rule : callable
        From a :class:`Batch` to the gradient of every parameter and scalars that are reported. The loop adds weight
        decay and momentum, and takes the step.
    sends : callable or None
        From the names of all parameters, in the module's order, and the options to those that are sent and averaged;
        the others stay with the site's private state. None: in a global round all are sent, in a personal one none.
    reference : {"zero-shot", "global"}
        Whose logits a batch has beside the module's own.
    begin : callable or None
        Makes ready before the first step: what the server's brief or the memory says goes into the module.
    end : callable or None
        Brings the memory up to date when the last step is taken.
    rates : callable or None
        From the learning rate and the options to those of parameters with other ones, by the beginning of their names.
    """

    rule: Rule
    sends: Names | None = None
    reference: Literal["zero-shot", "global"] = "zero-shot"
    begin: Begin | None = None
    end: End | None = None
    rates: Rates | None = None


def names_of_shared(names: Sequence[str], options: Options) -> set[str]:
    """Choose the shared half of a module that has an own one."""
    return {name for name in names if name.startswith("shared.")}


def without_own(names: Sequence[str], options: Options) -> set[str]:
    """Choose all but the own part of a module."""
    return {name for name in names if not name.startswith("own.")}


def under(values: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    """Return those whose names begin so, by the rest of their names."""
    return {name.removeprefix(beginning): value for name, value in values.items() if name.startswith(beginning)}


def shapes_of(values: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes by name."""
    return {name: tuple(value.shape) for name, value in values.items()}


def nothing(parameters: Mapping[str, Tensor], facts: Facts) -> Memory:
    """Remember nothing at first."""
    return {}


def plain(build: Maker, options: Options, generator: torch.Generator) -> PeftModule:
    """Compose nothing: the family's own module."""
    return build("global")


def own_branch(build: Maker, options: Options, generator: torch.Generator) -> PeftModule:
    """Make a module of the family for personal rounds."""
    return build("private")


def shared_alone(models: Models) -> Model:
    """Predict by the module of global rounds."""
    return (models.shared,)


def shared_half(models: Models) -> Model:
    """Predict by the shared half of a module that has an own one."""
    return (getattr(models.shared, "shared", models.shared),)


@dataclass(frozen=True)
class Algorithm:
    """A method.

    Attributes
    ----------
    visits : mapping of Phase to Visit
        A method without personal rounds has one for global rounds alone, one that trains nothing has none.
    compose : callable
        Makes the module of global rounds from modules of the family; its parameters' names are the names on the wire
        and in files.
    private : callable
        Makes the module of personal rounds likewise; its parameters' names are those in a site's private state and, of
        what a personal visit sends, on the wire.
    global_model : callable
        From :class:`Models` to the modules whose logits add up to those of the global model (GM).
    personalized : callable or None
        The same of the personalized model (PM), once the site has trained its private part; None: there is no other
        model than the global one.
    bias : callable or None
        From facts and options to what is added to the logits of both models in predictions, shape (C,), or to None.
    memory_is_sent : bool
        What is remembered is what is sent, so that numbers over it tell the server no more than the parameters do.
    choose : callable or None
        What a site finds out on its validation part after a personal visit, where it has such images, and remembers
        beside what else it keeps; it is no part of training, and no state of global rounds.
    front : callable or None
        From :class:`Models` with a private module, and what makes logits of a model on some images, to the logits at
        every point of :func:`fedpurel_app.core.fronts.points_of` in turn; None: there is no preference to choose.
    reading : str
        What is ours where the source leaves something open, or differs; empty where it is as published.
    memory : callable or None
        Makes what a site keeps beside parameters, as it is before the first visit, from the names and initial values of
        the shared module's parameters and what is known at the site; None: nothing.

    Raises
    ------
    ValueError
        When it trains, but not in global rounds.
    """

    visits: Mapping[Phase, Visit]
    compose: Compose = plain
    private: Compose = own_branch
    global_model: Callable[[Models], Model] = shared_alone
    personalized: Callable[[Models], Model] | None = None
    bias: Callable[[Facts, Options], Tensor | None] | None = None
    memory: Callable[[Mapping[str, Tensor], Facts], Memory] | None = None
    memory_is_sent: bool = False
    choose: Callable[[Held], Memory] | None = None
    front: Callable[[Models, Callable[[Model], Tensor]], Iterator[Tensor]] | None = None
    reading: str = ""

    def __post_init__(self) -> None:
        if self.visits and Phase.GLOBAL not in self.visits:
            raise ValueError("a method that trains needs a visit for global rounds.")

    @property
    def has_personal_rounds(self) -> bool:
        """Whether sites train a private module in rounds of its own."""
        return Phase.PERSONAL in self.visits

    @property
    def keeps_parts(self) -> bool:
        """Whether sites keep a part of what they train in global rounds to themselves."""
        return bool(self.visits) and self.visits[Phase.GLOBAL].sends is not None

    @property
    def keeps_state(self) -> bool:
        """Whether a global round writes private state: a part of what is trained, or the method's memory."""
        return self.keeps_parts or self.memory is not None

    @property
    def keeps_secrets(self) -> bool:
        """Whether a global round runs on what its site alone knows of a method."""
        return self.keeps_parts or (self.memory is not None and not self.memory_is_sent)

    def sent(self, shared: PeftModule, options: Options) -> frozenset[str]:
        """Return the names of the shared module's parameters that are sent and averaged."""
        names = [name for name, _ in shared.named_parameters()]
        if not self.visits:
            return frozenset()
        sends = self.visits[Phase.GLOBAL].sends
        return frozenset(names if sends is None else sends(names, options))

    @property
    def shares_in_personal_rounds(self) -> bool:
        """Whether sites send, and the server averages, a part of their private module."""
        return self.has_personal_rounds and self.visits[Phase.PERSONAL].sends is not None

    def sent_of_private(self, private: PeftModule, options: Options) -> frozenset[str]:
        """Return the names of the private module's parameters that are sent and averaged in personal rounds."""
        sends = self.visits[Phase.PERSONAL].sends if self.has_personal_rounds else None
        return (
            frozenset()
            if sends is None
            else frozenset(sends([name for name, _ in private.named_parameters()], options))
        )

    def is_known(self, shared: PeftModule, options: Options) -> bool:
        """Tell whether what is sent makes up the global model, so that the server has all of it."""
        sent = self.sent(shared, options)
        there = {id(value) for name, value in shared.named_parameters() if name in sent}
        parts = self.global_model(Models(shared))
        return all(id(value) in there for part in parts for _, value in part.named_parameters())
