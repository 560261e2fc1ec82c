"""FedPGP: every site adapts the shared prompt by a low-rank matrix of its own, held apart from it by a contrast.

    p_k = sigma + U_k V_k,   sigma shared, U_k (n, b) and V_k (b, d) of the site's own
    L = CE(l(p_k), y) + mu InfoNCE,   InfoNCE = -mean_c log(exp(a_c / t) / (exp(a_c / t) + exp(r_c / t)))
    a_c = cos(T_c^zero-shot, T_c(sigma)),   r_c = cos(T_c(sigma), T_c(p_k)),   t = 0.5

sigma alone is sent and averaged, and is the global model; sigma + U_k V_k is the personalized one.

References
----------
T. Cui, H. Li, J. Wang, Y. Shi, "Harmonizing Generalization and Personalization in Federated Prompt Learning", ICML
2024.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fedpurel_app.algorithms.base import Algorithm, Batch, Maker, Metrics, Options, Visit, names_of_shared, shared_half
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.low_rank import LowRank

_TEMPERATURE = 0.5


def adapted(build: Maker, options: Options, generator: torch.Generator) -> LowRank:
    """Make the module of global rounds."""
    return LowRank(build("global"), options["adaptation-rank"], generator)


def contrasted_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the gradient of the task, and that of mu InfoNCE."""
    gradients, metrics = task_step(batch)
    if not isinstance(batch.module, LowRank) or batch.facts.zero_shot_text is None:
        raise ValueError("zero-shot text features are not known here.")
    shared = batch.module.shared.class_features()
    near, far = (shared * batch.facts.zero_shot_text).sum(1), (shared * batch.class_features).sum(1)
    contrast = softplus((far - near) / _TEMPERATURE).mean()  # -log(e^a / (e^a + e^r)) = log(1 + e^(r - a))
    pull = batch.gradients(batch.options["contrast-weight"] * contrast)
    metrics["align-loss"] = contrast.detach()
    return [task + more for task, more in zip(gradients, pull, strict=True)], metrics


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(contrasted_step, sends=names_of_shared)},
    compose=adapted,
    global_model=shared_half,
    personalized=lambda models: (models.shared,),
    reading=(
        "The features that the shared ones are drawn to are those of the template; upstream takes a frozen prompt of "
        "placeholders."
    ),
)
