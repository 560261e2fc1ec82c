"""PromptFolio: a shared and a site's own prompt are trained together, mixed in the space of text features.

    T = (1 - theta) T_shared + theta T_own,   both of unit length, their mixture not scaled again;   L = CE(s f T^t, y)

The shared prompt alone is sent and averaged, and is the global model; the mixture is the personalized one.

References
----------
B. Pan, W. Huang, Y. Shi, "Federated Learning from Vision-Language Foundation Models: Theoretical Analysis and Method",
NeurIPS 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Maker, Options, Visit, names_of_shared, shared_half
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.base import PeftModule
from fedpurel_app.models.peft.pair import Pair


class Mixture(Pair):
    """A shared and an own prompt, and theta."""

    def __init__(self, shared: PeftModule, own: PeftModule, theta: float) -> None:
        super().__init__(shared, own)
        self._theta = theta

    def class_features(self) -> Tensor:
        """Return (1 - theta) T_shared + theta T_own, shape (C, D), not normalised."""
        return (1 - self._theta) * self.shared.class_features() + self._theta * self.own.class_features()


def mixture(build: Maker, options: Options, generator: torch.Generator) -> Mixture:
    """Make the module of global rounds; both prompts begin with draws of their own."""
    return Mixture(build("global"), build("private"), options["mixing-weight"])


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(task_step, sends=names_of_shared)},
    compose=mixture,
    global_model=shared_half,
    personalized=lambda models: (models.shared,),
)
