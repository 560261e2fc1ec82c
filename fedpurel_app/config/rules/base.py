"""What a rule is."""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """A rule, the keys it joins, and what to say when it is broken."""

    keys: frozenset[str]
    is_broken: bool
    message: str


def rule(keys: str, is_broken: bool, message: str) -> Rule:
    """Make a rule; its keys stand in one text."""
    return Rule(frozenset(keys.split()), is_broken, message)
