"""The two kinds of rounds."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What a round trains: the parameters that sites share, or what each keeps to itself."""

    GLOBAL = "global"
    PERSONAL = "personal"
