"""The errors that users meet. Each message says what was given, what is allowed and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class FedPurelError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(FedPurelError):
    """A setting is unknown, of the wrong type, out of range, or at odds with another one.

    Parameters
    ----------
    problems : str or sequence of str
        One line for each problem. All are shown at once.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        lines = [problems] if isinstance(problems, str) else list(problems)
        self.problems = tuple(lines)
        if len(lines) == 1:
            super().__init__(lines[0])
        else:
            super().__init__("\n".join([f"{len(lines)} problems in the settings:", *(f"  - {line}" for line in lines)]))


class DataError(FedPurelError):
    """A data set is missing, malformed, or does not fit the settings."""


class StateError(FedPurelError):
    """Something on disk (checkpoint, private branch, run folder) is missing, foreign or damaged."""


class RunError(FedPurelError):
    """A federated run cannot go on."""
