"""What a client does with its own data in one visit: one loop for all methods and for both kinds of rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from fedpurel_app.algorithms.base import Batch, Begun, Facts, Memory, Rule, Visit, Visited
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.models.peft.base import PeftModule
from fedpurel_app.training.inputs import LocalData, TrainingData


def train(
    module: PeftModule,
    data: TrainingData,
    visit: Visit | Rule,
    settings: SgdSettings,
    generator: torch.Generator,
    options: Mapping[str, Any],
    facts: Facts | None = None,
    anchor: Mapping[str, Tensor] | None = None,
    memory: Memory | None = None,
) -> dict[str, Any]:
    """Train a module in place on one client's data.

    Parameters
    ----------
    module : PeftModule
        Its parameters are updated.
    data : TrainingData
    visit : Visit or callable
        What the method does, or its rule alone.
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

    Returns
    -------
    dict of str to float or list of float
        Means over the steps (``loss`` and what the rule reports), ``steps``, and ``drift``: the Euclidean distance
        between the parameters before and after.
    """
    totals, steps = take_steps(module, data, visit, settings, generator, options, facts or Facts(), anchor, memory)
    # What a GPU computed comes to the host here, once a visit.
    drift = float(totals.pop("drift"))
    return {**{name: _mean(value, steps) for name, value in totals.items()}, "steps": steps, "drift": drift}


def _mean(total: Tensor, steps: int) -> float | list[float]:
    return [one / steps for one in total.tolist()] if total.ndim else float(total) / steps


def begin(
    module: PeftModule,
    data: TrainingData,
    visit: Visit,
    options: Mapping[str, Any],
    facts: Facts,
    memory: Memory,
) -> None:
    """Make a module and the memory ready for the first step of a visit, as the method says."""
    if visit.begin is not None:
        inputs = data.inputs if isinstance(data, LocalData) and isinstance(data.inputs, Tensor) else None
        visit.begin(Begun(module, inputs, data.labels, facts, options, memory))


def take_steps(
    module: PeftModule,
    data: TrainingData,
    visit: Visit | Rule,
    settings: SgdSettings,
    generator: torch.Generator,
    options: Mapping[str, Any],
    facts: Facts,
    anchor: Mapping[str, Tensor] | None,
    memory: Memory | None = None,
) -> tuple[dict[str, Tensor], int]:
    """Take all steps of a visit without waiting for the device: sums of what the rule reports, drift, and a number."""
    names, trained = zip(*module.named_parameters(), strict=True)
    parameters, memory = list(trained), {} if memory is None else memory
    visit = visit if isinstance(visit, Visit) else Visit(visit)
    begin(module, data, visit, options, facts, memory)
    others = {} if visit.rates is None else visit.rates(settings.learning_rate, options)
    rates = _rates(names, settings.learning_rate, others)
    before = [parameter.detach().clone() for parameter in parameters]
    start = before if anchor is None else [anchor[name] for name in names]
    velocity: list[Tensor | None] = [None] * len(parameters)
    module.train()
    _seed(generator.initial_seed())  # dropout, where a module has it
    totals: dict[str, Tensor] = {}
    steps, kept = 0, list[Any]()  # by the rule, in this visit
    for rows in _batches(len(data.labels), settings, generator, data.index_device):
        inputs, reference = data.batch(rows, generator)
        output, text = module.with_text(inputs)
        batch = Batch(inputs, data.labels[rows], output, reference, module, parameters, start, facts, options,
                      settings.learning_rate, generator, memory, text, visit=kept, velocity=velocity,
                      momentum=settings.momentum, decay=settings.weight_decay)  # fmt: skip
        gradients, metrics = visit.rule(batch)
        if not steps:
            _refuse_shapes(gradients, parameters)
        _step(parameters, gradients, velocity, settings, rates)
        del output, text, batch  # or this step's graph would live beside the next one's
        steps += 1
        for name, value in metrics.items():
            totals[name] = totals[name] + value if name in totals else value
    module.train(False)
    after = [parameter.detach() for parameter in parameters]
    squares = torch.stack([(new - old).square().sum() for new, old in zip(after, before, strict=True)])
    if visit.end is not None:
        visit.end(Visited(names, before, after, settings.travel(steps), facts, options, memory))
    return {**totals, "drift": squares.sum().sqrt()}, steps


def _rates(names: Sequence[str], rate: float, others: Mapping[str, float]) -> list[tuple[float, list[int]]]:
    """Sort the numbers of the parameters by the learning rate of each."""
    rates: dict[float, list[int]] = {}
    for number, name in enumerate(names):
        own = next((other for beginning, other in others.items() if name.startswith(beginning)), rate)
        rates.setdefault(own, []).append(number)
    return list(rates.items())


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
    parameters: list[torch.nn.Parameter],
    gradients: list[Tensor],
    velocity: list[Tensor | None],
    settings: SgdSettings,
    rates: list[tuple[float, list[int]]],
) -> None:
    """Take one step: v <- m v + (g + d w), w <- w - r v, by torch's own function.

    Its class ``torch.optim.SGD`` imports torch's compiler on first use: seconds in every new process, and at a real
    site every message is one.
    """
    for rate, numbers in rates:
        moved: list[Tensor | None] = [velocity[number] for number in numbers]
        sgd(
            [parameters[number] for number in numbers],
            [gradients[number] for number in numbers],
            moved,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            foreach=False,
        )
        for number, value in zip(numbers, moved, strict=True):
            velocity[number] = value


def _batches(count: int, settings: SgdSettings, generator: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Yield row numbers of shuffled batches."""
    left = settings.steps(count)
    while left:
        order = torch.randperm(count, generator=generator).to(device)
        batches = order[: settings.usable(count)].split(settings.batch_size)[:left]
        left -= len(batches)
        yield from batches
