"""Keys without effect: those of a method, balancer or family that was not chosen, or that another choice makes idle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedpurel_app.config.model import REGISTRIES
from fedpurel_app.core.options import readers

# With the text split: of the sites' own steps, of which there are none, and of more than one projection of the means.
_OF_STEPS = (
    *("local-epochs", "local-steps", "batch-size", "drop-last", "augment"),
    *("projection-scope", "projection-target", "projection-strength", "projection-schedule"),
)


def idle_keys(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys that have no effect under settings, most of methods, balancers and families, with the reasons.

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
    if settings["split"] == "text":
        why = 'it has no use with split = "text", where a round is one step over all images, purified at the server'
        reasons = dict.fromkeys(_OF_STEPS, why) | reasons
        own = 'it has no use with split = "text", where a private branch is a text residual and begins at zero'
        reasons.setdefault("private-init", own)
    return reasons
