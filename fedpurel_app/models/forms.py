"""Which forms of towers there are, and which families of modules work with which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.checkpoints import model_architectures
from fedpurel_app.models.image import ImageTower
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.models.text import TextTower

Architecture = Mapping[str, Any]
_EXAMPLES = ("ViT-B-16", "ViT-L-14", "convnext_base", "EVA02-B-16", "PE-Core-B-16")


def text_lacks(architecture: Architecture) -> list[str]:
    """List what a text tower has that CLIP's causal transformer lacks; empty for one that can be opened."""
    found = TextTower.unsupported(architecture["text_cfg"])
    return found + [name for name in ("multimodal_cfg",) if name in architecture]


def image_lacks(architecture: Architecture) -> list[str]:
    """List what an image tower has that CLIP's own vision transformer lacks; empty for one that can be opened."""
    return ImageTower.unsupported(architecture["vision_cfg"])


def families_for(architecture: Architecture) -> list[str]:
    """List the families, by value of ``peft``, that work with the towers of an architecture."""
    open_towers = {"features"}
    open_towers |= set() if text_lacks(architecture) else {"text tower"}
    open_towers |= set() if image_lacks(architecture) else {"image tower"}
    return [family.name for family in FAMILIES.values() if family.needs in open_towers]


def closed_text_tower(name: str, architecture: Architecture) -> ConfigError:
    """Return what to say where something wants the inside of a text tower that is not CLIP's."""
    fine = [one for one, form in model_architectures().items() if not text_lacks(form)]
    examples = [one for one in _EXAMPLES if one in fine]
    return ConfigError(
        f'backbone = "{name}": nothing can be put inside its text tower, which is not CLIP\'s causal transformer '
        f"({', '.join(text_lacks(architecture))}). With it work peft = {_quoted(families_for(architecture))}, and "
        'methods that add nothing to prompts. For peft = "prompt" and lora-tower = "text" or "both" take one of the '
        f"{len(fine)} open_clip models with CLIP's text tower, as {', '.join(examples)}; or demo."
    )


def closed_image_tower(name: str, architecture: Architecture) -> ConfigError:
    """Return what to say where something wants the inside of an image tower that is not CLIP's."""
    return ConfigError(
        f'backbone = "{name}": nothing can be put inside its image tower ({", ".join(image_lacks(architecture))}). Use '
        f"peft = {_quoted(families_for(architecture))}, or a vision transformer of CLIP's form, as ViT-B-16."
    )


def _quoted(names: list[str]) -> str:
    *first, last = [f'"{name}"' for name in names]
    return f"{', '.join(first)} or {last}" if first else last
