"""FedOTP: a shared and a site's own prompt, between which the patches of every image are divided by optimal transport.

    l_c = s sum_{n,m} P_{nm} cos(T_{n,c}, f_m),   n = shared, own;   f_1 .. f_M: features of the patches, without [CLS]
    P = argmax_P sum P cos + epsilon H(P)   for every image and class, with P >= 0,
        sum_m P_nm = gamma / N,   sum_n P_nm <= 1 / M;   L = CE(l, y), P constant in its gradient

The shared prompt alone is sent and averaged; with N = 1 it is the global model. Both together are the personalized one.

References
----------
H. Li, W. Huang, J. Wang, Y. Shi, "Global and Local Prompts Cooperation via Optimal Transport for Federated Learning",
CVPR 2024.
"""

from __future__ import annotations

from typing import cast

import torch

from fedpurel_app.algorithms.base import Algorithm, Maker, Model, Models, Options, Visit, names_of_shared
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.transport import Transport


def transport(build: Maker, options: Options, generator: torch.Generator) -> Transport:
    """Make the module of global rounds; both prompts begin with draws of their own."""
    prompts = {"shared": build("global"), "own": build("private")}
    return Transport(prompts, options["transport-mass"], options["transport-epsilon"])


def shared_prompt(models: Models) -> Model:
    """Predict by the shared prompt alone."""
    return (cast(Transport, models.shared).alone(),)


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(task_step, sends=names_of_shared)},
    compose=transport,
    global_model=shared_prompt,
    personalized=lambda models: (models.shared,),
    reading=(
        "P is found when no scaling of a prompt changes by more than 0.1 %, for every image and class by itself, in "
        "at most 100 iterations; upstream stops when the mean change over the batch is 0.001. Patches are kept in "
        "half precision."
    ),
)
