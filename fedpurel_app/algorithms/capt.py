"""CAPT: a prompt that all sites share, and prompts of the classes that sites with alike classes share.

    context of class c at site k:   v + w_c^(g),   g the cluster of k;   L = CE of the logits

All average v. Sites are clustered by their class shares; the sites of a cluster average w. A bandit chooses two
clusters, which average their w with each other, and two others when it has seen what came of it: see
:mod:`fedpurel_app.strategies.parts.clusters`. The global model has the average w of all sites, the personalized one
the w that the site trained from its cluster's.

References
----------
"CAPT: Class-Aware Prompt Tuning for Federated Long-Tailed Learning with Vision-Language Model", 2025, arXiv 2503.06993.
"""

from __future__ import annotations

import torch

from fedpurel_app.algorithms.base import Algorithm, Begun, Maker, Model, Models, Options, Visit, Visited, nothing
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.base import parameters_of
from fedpurel_app.models.peft.two_contexts import TwoContexts

_CLASSES = "classes"


def two_contexts(build: Maker, options: Options, generator: torch.Generator) -> TwoContexts:
    """Make the module of global rounds."""
    return TwoContexts(build("global", class_specific_context=True))


def of_the_cluster(begun: Begun) -> None:
    """Take up the cluster's w; raise ValueError when it has another shape."""
    if _CLASSES in begun.facts.brief:
        own, received = parameters_of(begun.module)[_CLASSES], begun.facts.brief[_CLASSES]
        if own.shape != received.shape:
            raise ValueError(f"the cluster's prompts have the shape {tuple(received.shape)}, not {tuple(own.shape)}.")
        own.copy_(received)


def keep(visited: Visited) -> None:
    """Remember the w that the site trained, for its own predictions."""
    visited.memory[_CLASSES] = dict(zip(visited.names, visited.after, strict=True))[_CLASSES].clone()


def clustered(models: Models) -> Model:
    """Predict with the w that the site remembers."""
    if _CLASSES not in models.memory or not isinstance(models.shared, TwoContexts):
        return (models.shared,)
    return (models.shared.at(models.memory[_CLASSES]),)


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(task_step, begin=of_the_cluster, end=keep)},
    compose=two_contexts,
    personalized=clustered,
    memory=nothing,
    memory_is_sent=True,
    reading=(
        "The abstract is all that was at hand: how clusters are found and exchange, what the bandit is rewarded by, "
        "and that the two contexts are added, is ours."
    ),
)
