"""What a client does with its own data in one visit: one loop for all methods and for both kinds of rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from fedpurel_app.algorithms.base import Batch, End, Facts, Memory, Rule, Visited
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.models.peft.base import PeftModule
from fedpurel_app.training.inputs import TrainingData


def train(
    module: PeftModule,
    data: TrainingData,
    rule: Rule,
    settings: SgdSettings,
    generator: torch.Generator,
    options: Mapping[str, Any],
    facts: Facts | None = None,
    anchor: Mapping[str, Tensor] | None = None,
    memory: Memory | None = None,
    end: End | None = None,
) -> dict[str, float]:
    """Train a module in place on one client's data.

    Parameters
    ----------
    module : PeftModule
        Its parameters are updated.
    data : TrainingData
    rule : callable
        A method's step: see :class:`fedpurel_app.algorithms.base.Visit`.
    settings : SgdSettings
    generator : torch.Generator
        On the CPU; orders the data, and its seed is that of dropout.
    options : mapping
        The method's keys and their values.
    facts : Facts, optional
    anchor : mapping of str to Tensor, optional
        The global branch's parameters by the module's names; else those that the module begins with.
    memory : dict of str to Tensor, optional
        What the site keeps of the method; changed in place.
    end : callable, optional
        What the method does after the last step.

    Returns
    -------
    dict of str to float
        Means over the steps (``loss`` and what the rule reports), ``steps``, and ``drift``: the Euclidean distance
        between the parameters before and after.
    """
    totals, steps = take_steps(module, data, rule, settings, generator, options, facts or Facts(), anchor, memory, end)
    # What a GPU computed comes to the host here, once a visit.
    drift = float(totals.pop("drift"))
    return {**{name: float(value) / steps for name, value in totals.items()}, "steps": steps, "drift": drift}


def take_steps(
    module: PeftModule,
    data: TrainingData,
    rule: Rule,
    settings: SgdSettings,
    generator: torch.Generator,
    options: Mapping[str, Any],
    facts: Facts,
    anchor: Mapping[str, Tensor] | None,
    memory: Memory | None = None,
    end: End | None = None,
) -> tuple[dict[str, Tensor], int]:
    """Take all steps of a visit without waiting for the device: sums of what the rule reports, drift, and a number."""
    names, trained = zip(*module.named_parameters(), strict=True)
    parameters, memory = list(trained), {} if memory is None else memory
    before = [parameter.detach().clone() for parameter in parameters]
    start = before if anchor is None else [anchor[name] for name in names]
    velocity: list[Tensor | None] = [None] * len(parameters)
    module.train()
    _seed(generator.initial_seed())  # dropout, where a module has it
    totals: dict[str, Tensor] = {}
    steps = 0
    for rows in _batches(len(data.labels), settings, generator, data.index_device):
        inputs, reference = data.batch(rows, generator)
        output = module.logits(inputs)
        batch = Batch(inputs, data.labels[rows], output, reference, module, parameters, start, facts, options,
                      settings.learning_rate, generator, memory)  # fmt: skip
        gradients, metrics = rule(batch)
        if not steps:
            _refuse_shapes(gradients, parameters)
        _step(parameters, gradients, velocity, settings)
        del output, batch  # or this step's graph would live beside the next one's
        steps += 1
        for name, value in metrics.items():
            totals[name] = totals[name] + value if name in totals else value
    module.train(False)
    after = [parameter.detach() for parameter in parameters]
    squares = torch.stack([(new - old).square().sum() for new, old in zip(after, before, strict=True)])
    if end is not None:
        end(Visited(names, before, after, settings.travel(steps), facts, options, memory))
    return {**totals, "drift": squares.sum().sqrt()}, steps


def _refuse_shapes(gradients: list[Tensor], parameters: list[torch.nn.Parameter]) -> None:
    """Raise ValueError unless a rule returns a gradient for each parameter: others would be broadcast, or left over."""
    found, wanted = ([tuple(one.shape) for one in part] for part in (gradients, parameters))
    if found != wanted:
        raise ValueError(f"the method's rule returns gradients of shapes {found}; the parameters have {wanted}")


def _seed(seed: int) -> None:
    """Seed torch's own generators.

    ``torch.manual_seed`` does as much, but where there is no GPU it also notes, with a stack trace for each kind of
    device, that one might come: milliseconds at every visit.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@torch.no_grad()
def _step(
    parameters: list[torch.nn.Parameter], gradients: list[Tensor], velocity: list[Tensor | None], settings: SgdSettings
) -> None:
    """Take one step: v <- m v + (g + d w), w <- w - r v, by torch's own function.

    Its class ``torch.optim.SGD`` imports torch's compiler on first use: seconds in every new process, and at a real
    site every message is one.
    """
    sgd(
        list(parameters),
        gradients,
        velocity,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        lr=settings.learning_rate,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        foreach=False,
    )


def _batches(count: int, settings: SgdSettings, generator: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Yield row numbers of shuffled batches."""
    left = settings.steps(count)
    while left:
        order = torch.randperm(count, generator=generator).to(device)
        batches = order[: settings.usable(count)].split(settings.batch_size)[:left]
        left -= len(batches)
        yield from batches
