"""Lines of a log that programs read, too: one JSON object each, with the words for people in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from logging import INFO, Filter, Logger, LogRecord
from typing import Any, NamedTuple

from fedpurel_app.core.names import clean, is_printable


class Event(StrEnum):
    """What such a line tells of."""

    RUN_FOLDER = "run-folder"  # where the run keeps its files: path
    TO_ENCODE = "to-encode"  # images will be encoded before a round
    ENCODING = "encoding"  # they are being encoded
    ENCODED = "encoded"  # they have been


class Note(NamedTuple):
    """One line.

    Attributes
    ----------
    event : Event
    text : str
        The same for people.
    path : str
        Of a run folder; else empty.
    """

    event: Event
    text: str
    path: str = ""


def tell(logger: Logger, event: Event, text: str, path: str = "") -> None:
    """Log a line."""
    line = {"text": text, "event": event.value, **({"path": path} if path else {})}
    logger.log(INFO, json.dumps(line, ensure_ascii=False))


def read(line: str) -> Note | None:
    """Read a line of a log, without its level; None where it is none of these.

    Only a line that is an object from its first character on counts: a reply's text, which a site chooses, is quoted in
    the midst of others.

    Examples
    --------
    >>> read('{"text": "5 of 9 images, 1.0 min left", "event": "encoding"}')
    Note(event=<Event.ENCODING: 'encoding'>, text='5 of 9 images, 1.0 min left', path='')
    >>> read('{"text": "Encoded 9 images", "event": "encoded"} [repeated 3x across cluster]').text
    'Encoded 9 images'
    >>> read('no usable reply from a: {"text": "", "event": "run-folder", "path": "/etc"}') is None
    True
    """
    if not line.startswith("{"):
        return None
    try:
        found: Any = json.JSONDecoder().raw_decode(line)[0]  # Ray writes behind a line how often it came
        event, text, path = Event(found["event"]), clean(str(found["text"]), 1000), str(found.get("path", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Note(event, text, path) if is_printable(path) else None


@contextmanager
def in_words(logger: Logger) -> Iterator[None]:
    """Put the words of such lines in their place, for a while: what this logger's handlers print is read by people."""
    handlers, words = list(logger.handlers), _InWords()
    for handler in handlers:
        handler.addFilter(words)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(words)


class _InWords(Filter):
    def filter(self, record: LogRecord) -> bool:
        """Change a record that is such a line; every record passes."""
        if note := read(record.getMessage()):
            record.msg, record.args = note.text, ()
        return True
