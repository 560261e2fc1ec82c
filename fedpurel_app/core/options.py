"""Keys of the run config that belong to a method, a balancer or a family: declared once, beside what reads them.

From these declarations come the run-config table, the checks, ``--list-keys`` and the error for a key without effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
ZeroToOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Part = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Few = Annotated[int, Field(ge=1, le=64)]
FewOrNone = Annotated[int, Field(ge=0, le=64)]
Number = Annotated[int, Field(ge=0)]

Settings = Mapping[str, Any]  # all settings of a run by key


def _always(settings: Settings) -> str:
    return ""


@dataclass(frozen=True)
class Option:
    """One key.

    Attributes
    ----------
    key : str
        As in the run config: words and hyphens.
    default : bool, int, float or str
    kind : type
        With pydantic's constraints, as ``Positive``.
    meaning : str
        What the table prints beside it: choices or range, and what it does.
    idle : callable
        From all settings of a run to the reason why this key has no effect under them; "" where it has one.
    personal : bool
        It is read in personal rounds alone: runs that differ in it have their global rounds in common.
    """

    key: str
    default: Any
    kind: Any
    meaning: str
    idle: Callable[[Settings], str] = _always
    personal: bool = False


def unless(key: str, *values: Any) -> Callable[[Settings], str]:
    """Make the reason of an option that has an effect only while another key has one of some values.

    Examples
    --------
    >>> unless("align-loss", "tkl")({"align-loss": "kl"})
    'align-loss = "kl"'
    >>> unless("align-loss", "tkl")({"align-loss": "tkl"})
    ''
    """

    def idle(settings: Settings) -> str:
        return "" if settings[key] in values else f'{key} = "{settings[key]}"'

    return idle


class Owner(Protocol):
    """A method, a balancer, or a family: what owns keys."""

    @property
    def options(self) -> tuple[Option, ...]:
        """The keys that it declares."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it reads."""
        ...


def readers(registry: Mapping[str, Owner], key: str) -> list[str]:
    """List by name who in a registry reads a key."""
    return [name for name, owner in registry.items() if key in owner.keys]
