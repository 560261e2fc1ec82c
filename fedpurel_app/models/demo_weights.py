"""The demo CLIP's weights: text pieces that Flower's bundles and its Hub carry, put together once into a file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurel_app.core.disk_memo import cache_folder, sha256_of
from fedpurel_app.core.errors import StateError
from fedpurel_app.core.files import write_atomically

_PIECE = 700_000  # bytes of weights in a piece: as text still below the Hub's 1 MB a file


def pack(weights: bytes, folder: Path) -> dict[str, Any]:
    """Write weights as text pieces.

    Parameters
    ----------
    weights : bytes
        A ``.safetensors`` file.
    folder : Path
        Pieces are ``weights-1.json``, ... in it.

    Returns
    -------
    dict
        What :func:`unpacked` needs: ``sha256`` of the whole and names of the ``pieces``, in order.
    """
    names = []
    for number, start in enumerate(range(0, len(weights), _PIECE), 1):
        names.append(f"weights-{number}.json")
        text = base64.b64encode(weights[start : start + _PIECE]).decode()
        (folder / names[-1]).write_text(json.dumps({"base64": text}) + "\n", "utf-8")
    return {"sha256": hashlib.sha256(weights).hexdigest(), "pieces": names}


def unpacked(folder: Path, packed: Mapping[str, Any]) -> Path:
    """Return the weights as a file in the cache; put it together where it is absent or damaged.

    Parameters
    ----------
    folder : Path
        Where the pieces lie.
    packed : mapping
        As :func:`pack` returned it.

    Raises
    ------
    FileNotFoundError
        When a piece is absent.
    StateError
        When the pieces are not those that were packed, or when the cache cannot be written.
    """
    digest = str(packed["sha256"])
    path = cache_folder() / "demo" / f"clip-{digest[:12]}.safetensors"
    if path.is_file() and sha256_of(path) == digest:
        return path
    weights = _joined(folder, packed["pieces"])
    if hashlib.sha256(weights).hexdigest() != digest:
        raise StateError(f"{folder}: the demo CLIP's weights are damaged. Install this package again.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, weights)
    except OSError as error:
        raise StateError(
            f"the cache {path.parent} cannot be written ({error.strerror}): make it yours, or set FEDPUREL_HOME to a "
            "folder that is."
        ) from error
    return path


def _joined(folder: Path, names: Sequence[str]) -> bytes:
    try:
        return b"".join(base64.b64decode(json.loads((folder / name).read_bytes())["base64"]) for name in names)
    except (ValueError, KeyError, TypeError, binascii.Error):
        return b""
