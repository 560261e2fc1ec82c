"""Linear heads on the image features of a module: one for training it, one that is shared, one of the site's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.peft.base import PeftModule
from fedpurel_app.models.peft.pair import Composite


def sparse_frame(text: Tensor, sparsity: float) -> Tensor:
    """Return the rows of a sparse equiangular tight frame that lies near text features.

    Parameters
    ----------
    text : Tensor, shape (C, D)
        T.
    sparsity : float
        Share of every row's numbers, its smallest ones, that are set to zero, [0, 1).

    Returns
    -------
    Tensor, shape (C, D)
        Rows of unit length. At sparsity 0 any two have the cosine -1 / (C - 1), and of all such frames none has a
        larger sum of inner products with T: sqrt(C / (C - 1)) V U^t, with T^t (I - 1 1^t / C) = U S V^t.

    Raises
    ------
    ConfigError
        When there are more than D + 1 classes: no such frame exists.
    """
    classes, width = text.shape
    if classes > width + 1:
        raise ConfigError(f"{classes} classes: {width} numbers of a feature hold a frame of at most {width + 1}.")
    left, _, right = torch.linalg.svd((text - text.mean(0)).double(), full_matrices=False)
    frame = (left[:, : classes - 1] @ right[: classes - 1]) * (classes / (classes - 1)) ** 0.5
    zeros = frame.abs().argsort(1)[:, : int(sparsity * width)]
    return nn.functional.normalize(frame.scatter(1, zeros, 0.0), dim=1).to(text)


class WithHead(Composite):
    """A module's image features under a linear head.

    Parameters
    ----------
    shared : PeftModule
    head : callable
        Makes the head, shape (C, D).
    parameters : dict of str to Parameter
        What the head is made of.
    """

    def __init__(self, shared: PeftModule, head: Callable[[], Tensor], parameters: dict[str, nn.Parameter]) -> None:
        super().__init__(shared)
        self._head, self._parameters = head, parameters

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the module's parameters and the head's."""
        yield from ((f"shared.{name}", value) for name, value in self.shared.named_parameters())
        yield from self._parameters.items()

    def class_features(self) -> Tensor:
        """Return the head, shape (C, D); its rows need not have unit length."""
        return self._head()


class Heads(WithHead):
    """A fixed frame that trains the module, and two heads on its features, the shared and the site's own.

    Parameters
    ----------
    shared : PeftModule
        Of image features; its parameters are called ``shared.<name>``.
    text : Tensor, shape (C, D)
        Where both heads begin; they are called ``head`` and ``own.head``.
    sparsity : float
        Of the frame.
    """

    def __init__(self, shared: PeftModule, text: Tensor, sparsity: float) -> None:
        self._head_parameter, self._own = nn.Parameter(text.clone()), nn.Parameter(text.clone())
        parameters = {"head": self._head_parameter, "own.head": self._own}
        super().__init__(shared, lambda: nn.functional.normalize(self._head_parameter, dim=1), parameters)
        self._trains = False
        self.frame, self._identity = sparse_frame(text, sparsity), torch.eye(text.shape[1]).to(text)

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off, and with it whose logits there are."""
        super().train(mode)
        self._trains = mode

    def with_text(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits, in training :meth:`logits_of_each`, else of the shared head, shape (B, C); and that head."""
        return (self.logits_of_each(inputs), self.class_features()) if self._trains else super().with_text(inputs)

    def logits_of_each(self, inputs: Tensor) -> Tensor:
        """Return logits of the frame, the shared and the own head, shape (B, 3, C).

        Gradients reach the module through the frame alone.
        """
        images = self.shared.logits_of(inputs, self._identity)  # s f, for s f I^t = s f
        fixed = images.detach()
        return torch.stack([images @ self.frame.T, fixed @ self._head_parameter.T, fixed @ self._own.T], 1)

    def generic(self) -> WithHead:
        """Return the model of the shared head, its rows brought to unit length."""
        return WithHead(self.shared, self.class_features, {"head": self._head_parameter})

    def personal(self) -> WithHead:
        """Return the model whose logits are those of both heads together."""
        return WithHead(self.shared, lambda: self.class_features() + self._own, self._parameters)
