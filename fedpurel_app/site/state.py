"""What a site keeps to itself between visits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Named = dict[str, npt.NDArray[np.float32]]
# Before names in files: of what a site keeps of the shared module, of what the method remembers, and of what waits.
_KEPT, _MEMORY, _UNSENT = "kept/", "memory/", "unsent/"


@dataclass(frozen=True)
class PrivateState:
    """What a site keeps to itself between visits.

    Attributes
    ----------
    branch : dict of str to ndarray
        Parameters of the private module; empty before its first visit.
    kept : dict of str to ndarray
        Those of the shared module that are not sent; empty where all are, and before the first visit.
    memory : dict of str to ndarray
        What the method remembers beside parameters; empty where it remembers nothing, and before the first visit.
    unsent : dict of str to ndarray
        What is left over of shortened updates; empty where a codec leaves nothing over.
    """

    branch: Named = field(default_factory=dict)
    kept: Named = field(default_factory=dict)
    memory: Named = field(default_factory=dict)
    unsent: Named = field(default_factory=dict)

    @classmethod
    def of(cls, tensors: Mapping[str, npt.NDArray[np.float32]]) -> PrivateState:
        """Sort the tensors of a file."""
        parts: dict[str, Named] = {_KEPT: {}, _MEMORY: {}, _UNSENT: {}, "": {}}
        for name, value in tensors.items():
            prefix = next(one for one in parts if name.startswith(one))
            parts[prefix][name.removeprefix(prefix)] = value
        return cls(parts[""], parts[_KEPT], parts[_MEMORY], parts[_UNSENT])

    def tensors(self) -> Named:
        """Return all tensors by their names in a file."""
        parts = {_KEPT: self.kept, _MEMORY: self.memory, _UNSENT: self.unsent, "": self.branch}
        return {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
