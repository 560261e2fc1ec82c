"""How a balancer is put on a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Balance, Batch, Facts, Metrics, Options, Visit
from fedpurel_app.core.phase import Phase

MakeBalance = Callable[[Batch, Phase], Balance]


def balanced(host: Algorithm, make: MakeBalance) -> Algorithm:
    """Return a method that is its host, but for the task loss of all its visits.

    Parameters
    ----------
    host : Algorithm
    make : callable
        From a batch, and the kind of round, to what becomes of the loss in this step.
    """

    def wrapped(phase: Phase, visit: Visit) -> Visit:
        def rule(batch: Batch) -> tuple[list[Tensor], Metrics]:
            batch.balance = make(batch, phase)
            return visit.rule(batch)

        return replace(visit, rule=rule)

    return replace(host, visits={phase: wrapped(phase, visit) for phase, visit in host.visits.items()})


def class_counts(facts: Facts, options: Options) -> Tensor:
    """Return the images by class that ``class-prior`` names, shape (C,); raises ValueError where they are unknown."""
    counts = facts.counts if options["class-prior"] == "local" else facts.prior
    if counts is None:
        raise ValueError(f'class-prior = "{options["class-prior"]}": its counts are not known here.')
    return counts
