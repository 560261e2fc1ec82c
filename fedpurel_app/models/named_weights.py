"""A checkpoint under the name of the model that it should be of: held against it before a tower is built of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.checkpoints import Checkpoint, read_shapes
from fedpurel_app.models.fitting import Shapes, misfits
from fedpurel_app.models.forms import image_lacks, text_lacks

Precision = Literal["fp32", "bf16", "fp16-autocast"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16-autocast": torch.float16}


@dataclass(frozen=True)
class NamedWeights:
    """Weights that are those of a backbone, or refused.

    Attributes
    ----------
    name : str
        Of the backbone, as in the run config.
    checkpoint : Checkpoint
    device : torch.device
        Where the towers run.
    precision : {"fp32", "bf16", "fp16-autocast"}
        Of their matrix products.
    """

    name: str
    checkpoint: Checkpoint
    device: torch.device
    precision: Precision = "fp32"

    @property
    def architecture(self) -> Mapping[str, Any]:
        """open_clip's model config."""
        return self.checkpoint.architecture

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a tower's matrix products; what comes of them is to be made fp32 again."""
        dtype = _AUTOCAST.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes of all tensors of the file, by name."""
        return read_shapes(self.checkpoint.path)

    def load(self, *prefixes: str, other_than: str = "") -> dict[str, Tensor]:
        """Read tensors as :meth:`Checkpoint.load`, of a file that fits.

        Raises
        ------
        ConfigError
            When the file is of another architecture than the one that was named.
        """
        self.require_fit()
        return self.checkpoint.load(*prefixes, other_than=other_than)

    def require_fit(self) -> None:
        """Raise ConfigError when the file is of another architecture than the one that was named, by shapes alone.

        Towers are built from what a file holds: one of another patch size or depth would be run under this name.
        """
        self.refuse(self._misfits)

    def refuse(self, problems: list[str]) -> None:
        """Raise ConfigError that names problems of the file, if there are any."""
        if problems:
            raise ConfigError(
                f'{self.checkpoint.path} does not hold the weights of "{self.name}" in open_clip\'s form: '
                f"{'; '.join(problems)}. Bring open_clip's file of it, or name the backbone that the file is of."
            )

    @cached_property
    def _misfits(self) -> list[str]:
        image, text = not image_lacks(self.architecture), not text_lacks(self.architecture)
        return misfits(self.shapes, self.architecture, with_image_tower=image, with_text_tower=text)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Say of which model a checkpoint should have been, when names or shapes are wrong."""
        try:
            yield
        except (KeyError, RuntimeError) as error:
            raise ConfigError(
                f'{self.checkpoint.path} does not hold the weights of "{self.name}" in open_clip\'s form '
                f"({type(error).__name__}: {str(error).splitlines()[-1].strip()}). Bring open_clip's file of it."
            ) from error
