"""Keys without effect: those of a method, balancer or family that was not chosen, or that another choice makes idle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedpurel_app.config.model import REGISTRIES
from fedpurel_app.core.options import readers


def idle_keys(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of methods, balancers and families that have no effect under settings, each with the reason.

    Parameters
    ----------
    settings : mapping
        Of every key.
    """
    reasons: dict[str, str] = {}
    for kind, registry in REGISTRIES.items():
        chosen = settings[kind]
        for key in {key: None for owner in registry.values() for key in owner.keys}:
            if chosen not in (names := readers(registry, key)):
                belongs = " or ".join(f'"{name}"' for name in names)
                reasons[key] = f'it belongs to {kind} = {belongs} and has no use with {kind} = "{chosen}"'
    for option in (option for kind, registry in REGISTRIES.items() for option in registry[settings[kind]].options):
        if why := option.idle(settings):
            reasons[option.key] = f"it has no use with {why}"
    return reasons
