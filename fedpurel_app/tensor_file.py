"""Named arrays with a few facts about them in one file, without pickle; equal content gives equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedpurel_app.errors import StateError

_KEY = "fedpurel"  # the one metadata entry: several would be written in random order


def dump(arrays: Mapping[str, npt.NDArray[Any]], facts: Mapping[str, str | int]) -> bytes:
    """Serialise arrays and facts in the safetensors format."""
    metadata = {_KEY: json.dumps(dict(facts), sort_keys=True)}
    return save({name: np.ascontiguousarray(value) for name, value in arrays.items()}, metadata=metadata)


def read(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str | int]]:
    """Read arrays and facts.

    Raises
    ------
    StateError
        When the file cannot be read, is damaged, or was not written by :func:`dump`.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {})[_KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, dict(facts)  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
