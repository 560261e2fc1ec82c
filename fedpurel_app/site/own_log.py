"""What a site's log says while it answers a message, and whether any of it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import INFO, WARNING, Handler, LogRecord, getLogger

from fedpurel_app.config import NodeConfig
from fedpurel_app.core.progress import read

_OURS = "flwr.fedpurel"
_LEAST = {"warnings": WARNING, "all": INFO}


class OwnLog(Handler):
    """Remembers the lines of this package's loggers.

    Attributes
    ----------
    records : list of LogRecord
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[LogRecord] = []

    def emit(self, record: LogRecord) -> None:
        """Remember a line."""
        self.records.append(record)

    def shared(self, node: NodeConfig) -> list[str]:
        """Return the lines that a node's ``share-log`` lets leave."""
        if node.share_log == "none":
            return []
        least = _LEAST[node.share_log]
        return [f"{one.levelname}: {_words(one)}" for one in self.records if one.levelno >= least]


def _words(record: LogRecord) -> str:
    """Return a line's text; some lines are objects that programs read."""
    message = record.getMessage()
    return message if (note := read(message)) is None else note.text


@contextmanager
def listening() -> Iterator[OwnLog]:
    """Listen to this package's loggers while a message is answered."""
    log, ours = OwnLog(), getLogger(_OURS)
    ours.addHandler(log)
    try:
        yield log
    finally:
        ours.removeHandler(log)
