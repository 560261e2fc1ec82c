"""Names of sites, experiments, classes and files."""

from __future__ import annotations

from collections.abc import Sequence

SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # of a site or an experiment: it becomes the name of a folder
FLOWER_LOG = "flower.log"  # what Flower says of a run, as a file


def plain_name(name: str) -> str:
    """Give the form in which class names are compared: case, and underscores for spaces, do not matter.

    Examples
    --------
    >>> plain_name("Polar_Bear ")
    'polar bear'
    """
    return " ".join(name.replace("_", " ").casefold().split())


def listed(names: Sequence[str], most: int = 3) -> str:
    """Write names in one line.

    Examples
    --------
    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def split_names(text: str) -> tuple[str, ...]:
    """Give the names in a text, which are separated by ";" or, where there is none, by ",".

    Examples
    --------
    >>> split_names("cat, polar bear"), split_names("cat, big; dog")
    (('cat', 'polar bear'), ('cat, big', 'dog'))
    """
    separator = ";" if ";" in text else ","
    return tuple(name.strip() for name in text.split(separator) if name.strip())
