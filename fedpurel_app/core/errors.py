"""The errors that users meet. Each message says what was given, what is allowed and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class FedPurelError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes
    ----------
    download : str
        What a machine with a network would have fetched, and from where; empty when a network would not have helped.
    """

    download = ""


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


class PolicyError(ConfigError):
    """A run asks for what a site's own settings refuse. The message names settings alone, so the server may read it."""


class DataError(FedPurelError):
    """A data set is missing, malformed, or does not fit the settings."""


class StateError(FedPurelError):
    """Something on disk (checkpoint, private branch, run folder) is missing, foreign or damaged."""


class RunError(FedPurelError):
    """A federated run cannot go on."""


class RunStopped(FedPurelError):  # noqa: N818  # no error: the user wished it
    """A run ends after a round because the user wishes so."""


class DamagedError(StateError):
    """A file's content is not what was written to it."""


class LockedError(StateError):
    """A file is encrypted with a key that was not given.

    Parameters
    ----------
    message : str
    key : str
        Name of the key.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class UnusableBranchError(StateError):
    """A site's private branch is absent, damaged, foreign or of another version.

    Parameters
    ----------
    message : str
    reason : {"absent", "damaged", "older-version", "newer-version", "foreign"}
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class AttemptError(StateError):
    """A site serves another run of the same experiment, or a later attempt at it."""


class DiskFullError(FedPurelError, OSError):
    """A disk or quota is full; ``errno`` and ``strerror`` are as those of any OSError."""

    def __str__(self) -> str:
        return str(self.strerror)
