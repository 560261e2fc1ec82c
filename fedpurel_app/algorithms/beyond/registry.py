"""The variants of FedPuReL that go beyond its paper: titles and keys. Each has a file here, its docstring the card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedpurel_app.core.options import NotNegative, Option, Settings, ZeroToOne, unless


@dataclass(frozen=True)
class Variant:
    """One variant.

    Attributes
    ----------
    name : str
        Of its file, with hyphens.
    title : str
    options : tuple of Option
        Its keys; their defaults are the paper.
    setting : str
        How it is put on, as in a run's settings.
    """

    name: str
    title: str
    options: tuple[Option, ...]
    setting: str


_purifies = unless("align-loss", "tkl", "kl")


def _removes(settings: Settings) -> str:
    return _purifies(settings) or ("" if settings["projection-strength"] else "projection-strength = 0.0")


STRENGTH = Option(
    "projection-strength",
    1.0,
    NotNegative,
    "what the opposing component is multiplied by before it is taken away, >= 0; 1 = paper, 0 = nothing is",
    idle=_purifies,
)
SCHEDULE = Option(
    "projection-schedule",
    "constant",
    Literal["constant", "rising", "falling"],
    "strength over the rounds: the same | from 0 up | down to 0",
    idle=_removes,
)
TARGET = Option(
    "projection-target",
    "gradient",
    Literal["gradient", "step"],
    "what is purified: the gradient (paper) | the step, with momentum and weight decay",
    idle=_removes,
)
ZERO_SHOT_WEIGHT = Option(
    "zero-shot-weight",
    0.0,
    ZeroToOne,
    "w: the global model predicts by (1 - w) of its own logits and w of zero-shot CLIP's, [0, 1)",
)


def _without_validation(settings: Settings) -> str:
    return "" if settings["validation-share"] else "validation-share = 0.0: sites choose it on their validation parts"


PRIVATE_SCALE = Option(
    "private-scale",
    "one",
    Literal["one", "validation"],
    "what the private branch's logits are multiplied by in predictions: 1 (paper) | chosen at each site, 0 to 1",
    idle=_without_validation,
    personal=True,
)
SITE_TEMPERATURE = Option(
    "site-temperature",
    "one",
    Literal["one", "validation"],
    "what the personalized model's logits are divided by: 1 (paper) | chosen at each site, 1/2 to 2",
    idle=_without_validation,
    personal=True,
)

VARIANTS = (
    Variant("strength", "Partial purification", (STRENGTH, SCHEDULE), "projection-strength = 0.5"),
    Variant("groups", "Purification by groups of classes", (), 'projection-scope = "class-group"'),
    Variant("step-target", "Purification of the step", (TARGET,), 'projection-target = "step"'),
    Variant("ensemble", "The global model beside zero-shot CLIP", (ZERO_SHOT_WEIGHT,), "zero-shot-weight = 0.3"),
    Variant(
        "site-choice",
        "What a site chooses on its validation part",
        (PRIVATE_SCALE, SITE_TEMPERATURE),
        'private-scale = "validation"',
    ),
)
