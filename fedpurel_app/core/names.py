"""Names of sites, experiments, classes and files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # of a site or an experiment: it becomes the name of a folder
FLOWER_LOG = "flower.log"  # what Flower says of a run, as a file


def site_name(index: int, sites: int) -> str:
    """Return what a simulated site is called, so that names sort as numbers do.

    Examples
    --------
    >>> site_name(7, 20), site_name(7, 5)
    ('site-07', 'site-7')
    """
    return f"site-{index:0{len(str(sites - 1))}d}"


def composed(name: str) -> str:
    """Return a name with composed letters (NFC), as most systems write them, and no white space around it.

    Examples
    --------
    >>> composed(" cafe\u0301 ") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name).strip()


def plain_name(name: str) -> str:
    """Return the form in which class names are compared.

    Case, underscores for spaces, and how a letter with an accent is composed do not matter.

    Examples
    --------
    >>> plain_name("Polar_Bear "), plain_name("Cafe\u0301") == plain_name("caf\u00e9")
    ('polar bear', True)
    """
    return " ".join(composed(composed(name).replace("_", " ").casefold()).split())


def printable(text: str) -> str:
    r"""Return a text that can be printed and stored: bytes of a file's name that are no UTF-8 as \xNN.

    Examples
    --------
    >>> printable("f" + chr(0xDCE9) + ".png")  # as Python reads the bytes of a name that are no UTF-8
    'f\\xe9.png'
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, which no file's name holds
        return text.encode("utf-8", "backslashreplace").decode()


def clean(text: str, most: int = 300) -> str:
    r"""Return foreign text as one printable line: what sites and files say reaches terminals, logs and tables.

    Parameters
    ----------
    text : str
    most : int
        Characters to keep.

    Returns
    -------
    str
        White space is folded to single spaces; control and format characters (Unicode's categories C*, which include
        escape sequences, right-to-left overrides and lone surrogates) become "?".

    Examples
    --------
    >>> clean("a\x1b[31m b\n\u202ec"), clean("abcdef", 4)
    ('a?[31m b ?c', 'abc…')
    """
    # Folding comes before cutting, and cutting before the rest: a megabyte of text costs no more than a line.
    return as_printed(" ".join(text[: 8 * most].split()), most)


def is_printable(text: str) -> bool:
    r"""Tell whether text is one line without control and format characters.

    Examples
    --------
    >>> is_printable("a photo of a {}."), is_printable("a\nb"), is_printable("\u202ereversed")
    (True, False, False)
    """
    return not any(unicodedata.category(one).startswith("C") for one in text)


def is_safe_name(text: object) -> bool:
    r"""Tell whether something can be the name of a site or an experiment.

    Examples
    --------
    >>> is_safe_name("hospital-a"), is_safe_name("../x"), is_safe_name("a\n")
    (True, False, False)
    """
    return isinstance(text, str) and re.fullmatch(SAFE_NAME, text) is not None


def as_printed(line: str, most: int = 1000) -> str:
    """Return a line of a table or a log as :func:`clean` does, but with its spaces as they are.

    Examples
    --------
    >>> as_printed("[ 1/80 global  ]")
    '[ 1/80 global  ]'
    """
    shown = "".join("?" if unicodedata.category(one).startswith("C") else one for one in line[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


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
    """Return the names in a text, which are separated by ";" or, where there is none, by ",".

    Examples
    --------
    >>> split_names("cat, polar bear"), split_names("cat, big; dog")
    (('cat', 'polar bear'), ('cat, big', 'dog'))
    """
    separator = ";" if ";" in text else ","
    return tuple(composed(name) for name in text.split(separator) if name.strip())
