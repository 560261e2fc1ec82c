"""What the files of a run folder hold: the one door through which they are read, whoever wrote them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedpurel_app.core.errors import StateError
from fedpurel_app.core.files import unquoted, write_atomically
from fedpurel_app.core.names import clean
from fedpurel_app.reporting.run_schemas import Config, Launch, Partition, Round, State, Summary
from fedpurel_app.reporting.sweep_schemas import Plan
from fedpurel_app.reporting.table_schemas import CalibrationRow, ClassRow, FrontRow, SiteRow

SCHEMA = 1

_JSON: dict[str, TypeAdapter[Any]] = {
    "config.json": TypeAdapter(Config),
    "state.json": TypeAdapter(State),
    "summary.json": TypeAdapter(Summary),
    "partition.json": TypeAdapter(Partition),
    "launch.json": TypeAdapter(Launch),
    "plan.json": TypeAdapter(Plan),
}
_ROWS: dict[str, TypeAdapter[Any]] = {
    "sites.csv": TypeAdapter(SiteRow),
    "classes.csv": TypeAdapter(ClassRow),
    "calibration.csv": TypeAdapter(CalibrationRow),
    "fronts.csv": TypeAdapter(FrontRow),
}
_ROUND: TypeAdapter[Any] = TypeAdapter(Round)
_ANY: TypeAdapter[Any] = TypeAdapter(dict[str, Any])


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run folder.

    Raises
    ------
    StateError
        When it is absent, damaged, or holds something else than a file of this name does.
    """
    content = _parse(_bytes(path), _ANY, str(path))
    if content.get("schema") != SCHEMA:
        raise StateError(f"{path} has another schema than {SCHEMA}: it was written by another version.")
    if path.name in _JSON:
        _check(content, _JSON[path.name], str(path))
    return content


def write_object(path: Path, content: Mapping[str, Any], mode: int = 0o644) -> None:
    """Write a JSON file of a run folder, whole or not at all."""
    text = json.dumps({"schema": SCHEMA, **finite(content)}, indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode(), mode)


def finite(value: Any) -> Any:
    """Put null in the place of NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """Read all whole lines of ``rounds.jsonl``; raises StateError when one of them is no round."""
    lines = _bytes(path).split(b"\n")[:-1] if path.exists() else []  # what follows the last newline is half a line
    return [_parse(line, _ROUND, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file of a run folder; empty when it is absent. Raises StateError when it holds something else."""
    if not path.exists():
        return []
    rows, adapter = [], _ROWS.get(path.name)
    try:
        for number, row in enumerate(csv.DictReader(io.StringIO(_bytes(path).decode(), newline="")), 1):
            if adapter is not None:
                _check({str(key): value for key, value in row.items()}, adapter, f"{path}, row {number}")
            rows.append({key: unquoted(value) for key, value in row.items()})
    except (UnicodeDecodeError, csv.Error) as error:
        raise StateError(f"{path} cannot be read ({error}).") from error
    return rows


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror}).") from error


def _parse(content: bytes, adapter: TypeAdapter[Any], place: str) -> dict[str, Any]:
    """Check a text, and give what it holds as it is written there."""
    try:
        adapter.validate_json(content)  # which, unlike json, bears any depth
        return dict(json.loads(content))
    except ValidationError as error:
        raise StateError(f"{place}: {_why(error)}") from error
    except ValueError as error:  # numbers of many thousand digits, NaN
        raise StateError(f"{place} cannot be read ({clean(str(error))}).") from error


def _check(content: dict[str, Any], adapter: TypeAdapter[Any], place: str) -> None:
    try:
        adapter.validate_json(json.dumps(content))
    except (ValidationError, ValueError) as error:
        why = _why(error) if isinstance(error, ValidationError) else clean(str(error))
        raise StateError(f"{place}: {why}") from error


def _why(error: ValidationError) -> str:
    """Say where something is wrong, the first three places."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{clean('.'.join(map(str, one['loc'])) or 'it', 100)}: {clean(one['msg'], 200)}" for one in found[:3]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"this is not what a run writes there ({'; '.join(lines)}{more})."
