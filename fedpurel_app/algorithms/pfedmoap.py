"""pFedMoAP: every site mixes its prompt with the prompts of others, which a gate of its own weighs for each image.

    l = lambda s f T_k^t + s pool(f) . o,   o_c = attention of pool(f) to pool of T_k,c and of K - 1 experts' T_j,c

The server sends a site the K - 1 prompts of others that are nearest to its own; it goes on from its own last one. At
its first visit it begins with the average of all, and trains that alone. The average is the global model; the gate
never leaves the site.

References
----------
J. Luo, C. Chen, S. Wu, "Mixture of Experts Made Personalized: Federated Prompt Learning for Vision-Language Models",
ICLR 2025.
"""

from __future__ import annotations

import torch

from fedpurel_app.algorithms.base import (
    Algorithm,
    Begun,
    Maker,
    Model,
    Models,
    Options,
    Visit,
    Visited,
    names_of_shared,
    nothing,
    shapes_of,
    shared_half,
    under,
)
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.base import load_parameters
from fedpurel_app.models.peft.gated import Gate, Gated, pooled

_EXPERT, _LAST = "expert/shared.", "last/shared."  # prompts of others, of shape (K - 1, ...), and one's own


def gated(build: Maker, options: Options, generator: torch.Generator) -> Gated:
    """Make the module of global rounds; without experts it is its prompt."""
    text = build("zero-shot").class_features()
    gate = Gate(pooled(text).shape[-1], generator).to(text.device)
    return Gated(build("global"), gate, options["local-weight"])


def go_on(begun: Begun) -> None:
    """Take up one's last prompt, and experts; raise ValueError when those do not fit it, or are too many."""
    last, experts = under(begun.memory, _LAST), under(begun.facts.brief, _EXPERT)
    if not last or not isinstance(begun.module, Gated):
        return
    most, count = begun.options["experts"] - 1, len(next(iter(experts.values()), ()))
    came, fit = shapes_of(experts), {name: (count, *shape) for name, shape in shapes_of(last).items()}
    if experts and (came != fit or count > most):
        raise ValueError(f"prompts of shapes {came} came: this site takes at most {most} of {shapes_of(last)}.")
    load_parameters(begun.module.shared, last)
    useful = begun.module.attend_to(experts)
    for name in last:
        begun.memory.pop(_EXPERT + name, None)
    begun.memory |= {_EXPERT + name: value[useful] for name, value in experts.items() if useful}


def keep_prompt(visited: Visited) -> None:
    """Remember the prompt."""
    prompt = under(dict(zip(visited.names, visited.after, strict=True)), "shared.")
    visited.memory |= {_LAST + name: value.clone() for name, value in prompt.items()}


def mixture(models: Models) -> Model:
    """Predict by the site's own prompt, experts and gate; by the average of prompts where it has none."""
    last, module = under(models.memory, _LAST), models.shared
    if not last or not isinstance(module, Gated):
        return shared_half(models)
    return (module.at(last, under(models.memory, _EXPERT)),)


_VISIT = Visit(task_step, names_of_shared, begin=go_on, end=keep_prompt,
               rates=lambda rate, options: {"own.": options["gate-learning-rate"]})  # fmt: skip
ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: _VISIT},
    compose=gated,
    global_model=shared_half,
    personalized=mixture,
    memory=nothing,
    reading="Heads are 8, or as many as divide the width; the gate begins as Xavier draws, and counts from the second "
    "visit on, when there are experts.",
)
