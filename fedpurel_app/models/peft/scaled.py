"""A module whose logits are multiplied by a constant, and zero-shot CLIP as a module: what models are mixed of."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from fedpurel_app.models.backbone import Takes
from fedpurel_app.models.peft.base import Branch, Host, PeftModule
from fedpurel_app.models.peft.pair import Composite


class Scaled(Composite):
    """w l: another module's logits times a factor. Two of the same module and factor are equal.

    Parameters
    ----------
    shared : PeftModule
        Whose parameters keep their names.
    factor : float
        w.
    """

    def __init__(self, shared: PeftModule, factor: float) -> None:
        super().__init__(shared)
        self.factor, self.logit_scale = factor, factor * shared.logit_scale

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the module's parameters."""
        return self.shared.named_parameters()

    def class_features(self) -> Tensor:
        """Return the module's text features, shape (C, D)."""
        return self.shared.class_features()

    def logits_of(self, inputs: Tensor, class_features: Tensor) -> Tensor:
        """Compute w l of other class features, shape (C, D); to (B, C)."""
        return self.factor * self.shared.logits_of(inputs, class_features)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scaled) and self.shared is other.shared and self.factor == other.factor

    def __hash__(self) -> int:
        return hash((id(self.shared), self.factor))


def scaled(module: PeftModule, factor: float) -> PeftModule:
    """Return a module times a factor; itself where that is 1."""
    return module if factor == 1 else Scaled(module, factor)


class ZeroShot(Branch):
    """z of zero-shot CLIP from what the family's modules take; it has no parameters.

    Parameters
    ----------
    host : Host
    takes : {"features", "pixels", "patches"}
    """

    def __init__(self, host: Host, takes: Takes) -> None:
        super().__init__(host)
        self._host, self.takes = [host], takes

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return image features, shape (B, D); raises NotImplementedError for patches, which are no image's feature."""
        if self.takes == "patches":
            raise NotImplementedError("features of patches do not tell the feature of the image")
        return self._host[0].towers("zero-shot").encode_pixels(inputs) if self.takes == "pixels" else inputs
