"""What methods do at the server beside averaging: one file for each that does."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies.parts.base import Part, Reply

__all__ = ["Part", "Reply", "load_part"]


def load_part(name: str, options: Mapping[str, Any], sgd: SgdSettings) -> Part | None:
    """Make the part that a file of this folder holds as ``PART``; None for no name."""
    if not name:
        return None
    part: Part = import_module(f"{__name__}.{name}").PART(options, sgd)
    return part
