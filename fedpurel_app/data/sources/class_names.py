"""Names of classes: which are usable, and which folders are no classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import composed, listed, plain_name, printable

_SYSTEM = {"__macosx", "lost+found", "$recycle.bin", "system volume information"}


def is_system(name: str) -> bool:
    """Tell whether a folder is hidden, or made by a system and not by a person.

    Examples
    --------
    >>> is_system("@eaDir"), is_system("__MACOSX"), is_system(".ipynb_checkpoints"), is_system("cat")
    (True, True, True, False)
    """
    return name.startswith((".", "@")) or name.casefold() in _SYSTEM


def usable_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Bring class names into one form of writing.

    Parameters
    ----------
    names : sequence of str
    where : str
        What the error begins with: the file or setting that they come from.

    Returns
    -------
    tuple of str
        The names in the same order, composed (NFC) and without white space around them.

    Raises
    ------
    DataError
        Naming all that are empty, unreadable, or equal to another one but for case, underscores and white space:
        texts that a model cannot tell apart.
    """
    found = tuple(composed(name) for name in names)
    problems = []
    if empty := [str(place) for place, name in enumerate(found) if not plain_name(name)]:
        problems.append(f"{len(empty)} without a text (class {listed(empty, 5)})")
    if foreign := [printable(name) for name in found if not _is_text(name)]:
        problems.append(f"with bytes that are no UTF-8, or with control characters: {listed(foreign, 5)}")
    if twins := equal_names(found):
        problems.append(f"that differ by no more than case, underscores and spaces: {listed(twins, 5)}")
    if problems:
        raise DataError(f"{where}: class names {'; '.join(problems)}. Give every class a name of its own.")
    return found


def equal_names(names: Sequence[str]) -> list[str]:
    """List groups of names that are equal in their plain form, as "Cat = cat"; empty names are left to others."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(plain_name(name), []).append(printable(name))
    return [" = ".join(group) for plain, group in groups.items() if plain and len(group) > 1]


def _is_text(name: str) -> bool:
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
