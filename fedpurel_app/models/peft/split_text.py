"""The text split: a site's side of a prompt whose text tower is at the server.

The site has the text features T of all classes, as the server encoded them, and no tower. What it finds out is how its
losses change with T.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedpurel_app.models.peft.base import Branch, Host


class SplitText(Branch):
    """Text features that are given, and two tensors that carry gradients to the server.

    ``text`` and ``align`` are the names on the wire. The server sends T and zeros. :meth:`open` puts T beside the
    parameters, so that one step of plain SGD at rate 1 from zero leaves the negative gradients in them, exactly.

    Parameters
    ----------
    host : Host
    """

    _given: Tensor

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.text = nn.Parameter(host.zero_shot_text.clone())
        self.align = nn.Parameter(torch.zeros_like(host.zero_shot_text))
        self.register_buffer("_given", torch.zeros_like(host.zero_shot_text), persistent=False)

    def open(self) -> None:
        """Move T out of the parameters, which are zero from then on."""
        with torch.no_grad():
            self._given += self.text
            self.text.zero_()
            self.align.zero_()

    def class_features(self) -> Tensor:
        """Return T + text + align, shape (C, D): T as the server encoded it, wherever it lies."""
        return self._given + self.text + self.align
