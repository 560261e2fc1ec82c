"""The text tower at the server, for sites that have none: features of a prompt, and the way back to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.sgd import sgd

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.functional import purify
from fedpurel_app.model_kit import ModelKit
from fedpurel_app.models.peft.base import Host, load_parameters, parameters_of, to_tensors
from fedpurel_app.strategies.parts.text_split import Text, Trained

_SAME = 0.999  # cosine of two text features that are those of one prompt, in two precisions


class TextTower:
    """A prompt on the text tower that the settings name.

    Parameters
    ----------
    kit : ModelKit

    Raises
    ------
    ConfigError
        When precomputed features were made by another CLIP.
    """

    def __init__(self, kit: ModelKit) -> None:
        self._settings, self._device = kit.shared_sgd, kit.device
        host, self._module = kit.whole_prompt()
        _require_same(host, kit.host)
        self._first = _numpy(parameters_of(self._module))

    def first(self) -> Trained:
        """Return the prompt as it was drawn, and a velocity of zero."""
        return Trained(self._first, {name: np.zeros_like(value) for name, value in self._first.items()})

    def features(self, trained: Trained) -> Text:
        """Return T(phi), float32, shape (C, D)."""
        load_parameters(self._module, to_tensors(trained.prompt))
        with torch.no_grad():
            found: Text = self._module.class_features().float().cpu().numpy()
        return found

    def step(self, trained: Trained, task: Text, align: Text) -> Trained:
        """Take the step of Eq. (3): two vector-Jacobian products through the tower, purified, then SGD."""
        load_parameters(self._module, to_tensors(trained.prompt))
        names, parameters = zip(*self._module.named_parameters(), strict=True)
        text = self._module.class_features()
        gradients = purify(self._back(text, parameters, task), self._back(text, parameters, align))
        velocity = [torch.from_numpy(np.array(trained.velocity[name])).to(self._device) for name in names]
        moved: list[Tensor | None] = [*velocity]  # changed in place
        with torch.no_grad():
            one = self._settings
            sgd(list(parameters), gradients, moved, weight_decay=one.weight_decay, momentum=one.momentum,
                lr=one.learning_rate, dampening=0.0, nesterov=False, maximize=False, foreach=False)  # fmt: skip
        return Trained(
            _numpy(parameters_of(self._module)),
            {name: value.cpu().numpy() for name, value in zip(names, velocity, strict=True)},
        )

    def _back(self, text: Tensor, parameters: Sequence[torch.nn.Parameter], cotangent: Text) -> list[Tensor]:
        """Compute J^T G, Eq. (2)."""
        given = torch.from_numpy(np.ascontiguousarray(cotangent)).to(self._device, text.dtype)
        return list(torch.autograd.grad(text, parameters, given, retain_graph=True))


def _require_same(ours: Host, theirs: Host) -> None:
    """Refuse features of another CLIP: a prompt of this tower would say nothing of them."""
    if ours.zero_shot_text.shape == theirs.zero_shot_text.shape:
        least = float((ours.zero_shot_text * theirs.zero_shot_text).sum(1).min())
        if least >= _SAME:
            return
    raise ConfigError(
        'split = "text" encodes prompts with this backbone, and the text_features of the data set are not those of its '
        f"template (shapes {tuple(ours.zero_shot_text.shape)} and {tuple(theirs.zero_shot_text.shape)}): name the "
        "backbone, weights and template that the features were made with."
    )


def _numpy(tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    return {name: value.detach().cpu().numpy().copy() for name, value in tensors.items()}
