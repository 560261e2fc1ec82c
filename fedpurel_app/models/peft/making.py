"""From a family, which is data, to one of its modules."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

from fedpurel_app.models.peft.base import Host, PeftModule, Role
from fedpurel_app.models.peft.registry import Family


def make_module(
    family: Family, host: Host, role: Role, options: Mapping[str, Any], generator: torch.Generator
) -> PeftModule:
    """Make a freshly initialised module.

    Parameters
    ----------
    family : Family
        Whose file is imported now.
    host : Host
    role : {"global", "private"}
    options : mapping
        At least this family's keys.
    generator : torch.Generator
        Source of the initial parameters.
    """
    module = import_module(f"fedpurel_app.models.peft.{family.name.replace('-', '_')}")
    built: PeftModule = module.build(host, role, options, generator)
    return built
