"""The kinds of rounds."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What a round trains: the parameters that sites share, what each keeps to itself, or nothing."""

    GLOBAL = "global"
    PERSONAL = "personal"
    EVALUATION = "evaluation"
