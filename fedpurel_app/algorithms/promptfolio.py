"""PromptFolio: a shared and a site's own prompt are trained together, mixed in the space of text features.

    T = (1 - theta) T_shared + theta T_own,   both of unit length, their mixture not scaled again;   L = CE(s f T^t, y)

The shared prompt alone is sent and averaged, and is the global model; the mixture is the personalized one.

References
----------
B. Pan, W. Huang, Y. Shi, "Federated Learning from Vision-Language Foundation Models: Theoretical Analysis and Method",
NeurIPS 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from fedpurel_app.algorithms.base import Algorithm, Model, Models, Options, Visit
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.base import Logits, PeftModule, Role


class Mixture:
    """Two modules of one family whose text features are mixed; images are seen through the shared one."""

    def __init__(self, shared: PeftModule, own: PeftModule, theta: float) -> None:
        self.shared, self.own, self._theta = shared, own, theta
        self.takes_pixels = shared.takes_pixels

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over both modules' parameters, as ``shared.context`` and ``own.context``."""
        for role, module in (("shared", self.shared), ("own", self.own)):
            yield from ((f"{role}.{name}", value) for name, value in module.named_parameters())

    def train(self, mode: bool = True) -> None:
        """Switch dropout of both on or off."""
        self.shared.train(mode)
        self.own.train(mode)

    def class_features(self) -> Tensor:
        """Return (1 - theta) T_shared + theta T_own, shape (C, D), not normalised."""
        return (1 - self._theta) * self.shared.class_features() + self._theta * self.own.class_features()

    def logits(self, inputs: Tensor) -> Tensor:
        """Compute s f T^t, shape (B, C)."""
        return self.logits_of(inputs, self.class_features())

    def logits_of(self, inputs: Tensor, class_features: Tensor) -> Tensor:
        """Compute logits of other class features."""
        return self.shared.logits_of(inputs, class_features)

    def frozen(self) -> Logits:
        """Return the function from inputs to logits at the present parameters."""
        with torch.no_grad():
            text = self.class_features()
        return lambda inputs: self.logits_of(inputs, text)


def mixture(build: Callable[[Role], PeftModule], options: Options) -> Mixture:
    """Make the module of global rounds; both prompts begin with draws of their own."""
    return Mixture(build("global"), build("private"), options["mixing-weight"])


def shared_prompt(models: Models) -> Model:
    """Predict by the shared prompt alone."""
    module = models.shared
    return (module.shared if isinstance(module, Mixture) else module,)


def names_of_shared(names: Sequence[str], options: Options) -> set[str]:
    """Choose the shared prompt; the own one stays."""
    return {name for name in names if name.startswith("shared.")}


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(task_step, sends=names_of_shared)},
    compose=mixture,
    global_model=shared_prompt,
    personalized=lambda models: (models.shared,),
)
