"""What CoPSL and its kin have in common: a private module with a knob. Numbers in brackets: see :mod:`.copsl`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fedpurel_app.algorithms.base import (
    Algorithm,
    Batch,
    Begin,
    Begun,
    End,
    Maker,
    Metrics,
    Model,
    Models,
    Options,
    Visit,
)
from fedpurel_app.algorithms.fedpurel import global_step
from fedpurel_app.core.fronts import ADJUSTED, PARETO, points_of
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.tasks import TASKS
from fedpurel_app.functional import kl_gradient, kl_loss, loss_weights, smoothed_log_prior
from fedpurel_app.functional.temperature import as_float
from fedpurel_app.models.peft.knobs import Knob
from fedpurel_app.models.peft.pareto import SHARED, Pareto

MakeKnob = Callable[[Options, torch.Generator], Knob]
_PRIOR, _LEAST = "log-prior", "least-losses"  # remembered: log pi_k, and z of (5)
_UNKNOWN = "the site's class counts are not known here."


def objectives(batch: Batch, own: Tensor, log_prior: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of (4) at l_P, shape (m, B, C), and the losses, shape (m,) [nats]."""
    common, weight = as_float(batch.reference), batch.options["private-weight"]
    found = [batch.task((1 - weight, own + common + o), (weight, own + o)) for o in (0.0, log_prior)]  # (3)
    if count > len(found):
        found.append((kl_gradient(own + common, common), kl_loss(own + common, common)))
    gradients, losses = zip(*found, strict=True)
    return torch.stack(gradients), torch.stack(losses)


def pareto_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the gradient of (5), averaged over the preferences that this batch drew; its reference is l_G."""
    if not isinstance(batch.module, Pareto) or batch.module.log_prior is None:
        raise ValueError(_UNKNOWN)
    found, values = [], []
    for p, own in zip(batch.module.drawn, as_float(batch.logits).unbind(1), strict=True):
        gradients, losses = objectives(batch, own, batch.module.log_prior, len(p))
        least = torch.minimum(batch.memory.get(_LEAST, losses), losses)
        if batch.options["scalarisation"] == "tchebycheff":
            batch.memory[_LEAST] = least
        weights = loss_weights(p, losses, least, batch.options["scalarisation"])
        found.append((weights[:, None, None] * gradients).sum(0))
        values.append((p * losses).sum())
    return batch.pull_back(torch.stack(found, 1) / len(found)), {"loss": torch.stack(values).mean()}


def count_classes(begun: Begun) -> None:
    """Tell the module log pi_k, and remember it for predictions."""
    if not isinstance(begun.module, Pareto) or begun.facts.counts is None:
        raise ValueError(_UNKNOWN)
    begun.memory[_PRIOR] = begun.module.log_prior = smoothed_log_prior(begun.facts.counts)


def personalized(models: Models) -> Model:
    """Predict by (2) at the preference that is asked for; else at that for the site's own mix."""
    if not isinstance(models.private, Pareto):
        return (models.shared,)
    asked = models.private.preference if models.preference is None else torch.tensor(models.preference)
    return models.shared, models.private.at(asked, models.memory[_PRIOR], models.memory.get(TASKS))


def front(models: Models, logits: Callable[[Model], Tensor]) -> Iterator[Tensor]:
    """Yield the logits at every point of :func:`.points_of`: of (2), and of what costs no training.

    Both of the latter begin with the module at the preference for the site's own mix, without the shift.
    """
    if not isinstance(models.private, Pareto):
        return
    log_prior, tasks, at_own = models.memory[_PRIOR], models.memory.get(TASKS), models.private.preference
    common, plain = logits((models.shared,)), logits((models.private.at(at_own, None, tasks),))
    for curve, at in points_of(len(at_own)):
        if curve == PARETO:
            yield common + logits((models.private.at(torch.tensor(at), log_prior, tasks),))
        elif curve == ADJUSTED:
            yield common + plain - at[0] * log_prior
        else:
            yield common + at[0] * plain


def of_the_knob(names: Sequence[str], options: Options) -> set[str]:
    """Choose h."""
    return {name for name in names if name.startswith(SHARED)}


def with_knob(make: MakeKnob, reading: str, begin: Begin = count_classes, end: End | None = None) -> Algorithm:
    """Return a method whose private module has a knob.

    Parameters
    ----------
    make : callable
        Makes h, of r coordinates, from the method's options and a generator.
    reading : str
        What is ours.
    begin, end : callable
        Of a personal visit, as of :class:`Visit`; the first does at least what :func:`count_classes` does. What h is
        told of other sites they remember as :data:`TASKS`.
    """

    def private(build: Maker, options: Options, generator: torch.Generator) -> Pareto:
        count, rank = options["preferences"], options["pareto-rank"]
        draws, shifts = options["preferences-per-step"], options["preference-shift"]
        return Pareto(build("private"), make(options, generator) if rank else None, count, rank, draws, shifts)

    return Algorithm(
        visits={
            Phase.GLOBAL: Visit(global_step),
            Phase.PERSONAL: Visit(pareto_step, sends=of_the_knob, reference="global", begin=begin, end=end),
        },
        private=private,
        personalized=personalized,
        front=front,
        reading=reading,
    )
