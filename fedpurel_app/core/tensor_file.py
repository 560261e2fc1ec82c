"""Named arrays with a few facts about them in one file, without pickle; equal content gives equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedpurel_app.core.errors import DamagedError, StateError

Facts = dict[str, str | int]

_KEY = "fedpurel"  # the one metadata entry: several would be written in random order
_DIGEST = "sha256"  # the format itself does not notice a bit that flipped


def dump(arrays: Mapping[str, npt.NDArray[Any]], facts: Mapping[str, str | int]) -> bytes:
    """Serialise arrays and facts in the safetensors format, with a digest of both."""
    packed = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    text = json.dumps({**facts, _DIGEST: _digest(packed, facts)}, sort_keys=True)
    return save(packed, metadata={_KEY: text})


def read(path: Path) -> tuple[dict[str, npt.NDArray[Any]], Facts]:
    """Read arrays and facts.

    Raises
    ------
    DamagedError
        When the file is damaged, or was not written by :func:`dump`.
    StateError
        When it cannot be read at all.
    """
    return parse(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read a file; raises StateError when the disk refuses."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror}).") from error


def parse(content: bytes, path: Path) -> tuple[dict[str, npt.NDArray[Any]], Facts]:
    """Take apart what :func:`dump` gave; ``path`` is for the message. Raises DamagedError."""
    try:
        facts = facts_of(content, path)
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
    if facts.pop(_DIGEST, None) != _digest(arrays, facts):
        raise DamagedError(f"{path} is damaged (its content does not match its digest).")
    return arrays, facts


def facts_of(content: bytes, path: Path) -> Facts:
    """Read the facts alone, digest included and not yet compared; raises DamagedError."""
    try:
        length = int.from_bytes(content[:8], "little")
        return dict(json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_KEY]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged ({type(error).__name__}: {error}).") from error


def _digest(arrays: Mapping[str, npt.NDArray[Any]], facts: Mapping[str, str | int]) -> str:
    total = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name in sorted(arrays):
        value = arrays[name]
        total.update(f"|{name}|{value.dtype.str}|{value.shape}|".encode())
        total.update(value.tobytes())
    return total.hexdigest()
