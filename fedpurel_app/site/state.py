"""What a site keeps to itself between visits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Named = dict[str, npt.NDArray[np.float32]]
_KEPT = "kept/"  # before the names, in files, of what a site keeps of the shared module


@dataclass(frozen=True)
class PrivateState:
    """What a site keeps to itself between visits.

    Attributes
    ----------
    branch : dict of str to ndarray
        Parameters of the private module; empty before its first visit.
    kept : dict of str to ndarray
        Those of the shared module that are not sent; empty where all are, and before the first visit.
    """

    branch: Named = field(default_factory=dict)
    kept: Named = field(default_factory=dict)

    @classmethod
    def of(cls, tensors: Mapping[str, npt.NDArray[np.float32]]) -> PrivateState:
        """Sort the tensors of a file."""
        kept = {name.removeprefix(_KEPT): value for name, value in tensors.items() if name.startswith(_KEPT)}
        return cls({name: value for name, value in tensors.items() if not name.startswith(_KEPT)}, kept)

    def tensors(self) -> Named:
        """Return all tensors by their names in a file."""
        return {_KEPT + name: value for name, value in self.kept.items()} | self.branch
