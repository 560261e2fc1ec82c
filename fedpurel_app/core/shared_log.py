"""What sites say in their logs, as far as their own settings share it: a record of a reply, and back."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ConfigRecord, RecordDict

from fedpurel_app.core.names import clean

SHARED_LOG = "shared-log"  # the record of a reply
_LINES = "lines"
_MOST_LINES, _LONGEST_LINE = 20, 300  # of one reply


def with_lines(content: RecordDict, lines: Sequence[str]) -> RecordDict:
    """Add lines to a reply, the last twenty; nothing where there are none."""
    if lines:
        content[SHARED_LOG] = ConfigRecord({_LINES: [clean(line, _LONGEST_LINE) for line in lines[-_MOST_LINES:]]})
    return content


def take_lines(content: RecordDict) -> list[str]:
    """Take the lines out of a reply, whatever a site sent: at most twenty, printable, of at most 300 characters."""
    record = content.config_records.get(SHARED_LOG)
    if record is None:
        return []
    del content[SHARED_LOG]
    lines = record.get(_LINES)
    if not isinstance(lines, list):
        return []
    return [clean(line, _LONGEST_LINE) for line in lines[:_MOST_LINES] if isinstance(line, str) and line.strip()]
