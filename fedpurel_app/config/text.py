"""The keys as text: for the command line, for ``pyproject.toml`` and for messages."""

from __future__ import annotations

import tomllib
from typing import Any

from fedpurel_app.config.model import RunConfig, key_of


def known_keys() -> list[str]:
    """List all keys, in the order of the table."""
    return [key for _, key, _, _ in describe_keys()]


def describe_keys() -> list[tuple[str, str, str, str]]:
    """List section, key, default (as TOML) and meaning of every key: by sections, options of methods after the rest."""
    rows, section = [], ""
    for name, field in RunConfig.model_fields.items():
        extra = field.json_schema_extra
        section = str(extra["section"]) if isinstance(extra, dict) else section
        rows.append((section, key_of(name), to_toml(field.default), field.description or ""))
    sections = list(dict.fromkeys(section for section, *_ in rows))
    return sorted(rows, key=lambda row: sections.index(row[0]))


def run_config_table() -> str:
    """Print the table that stands in ``pyproject.toml`` under ``[tool.flwr.app.config]``."""
    lines, current = [], ""
    for section, key, default, meaning in describe_keys():
        if section != current:
            lines.append(f"# {section}")
            current = section
        lines.append(f"{key} = {default}  # {meaning}")
    return "\n".join(lines) + "\n"


def to_toml(value: bool | int | float | str) -> str:
    """Write one value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def read_value(text: str) -> Any:
    """Read what stands behind ``--set KEY=``; what is not TOML is text.

    Examples
    --------
    >>> read_value("0.5"), read_value("prompt"), read_value('"0.5"')
    (0.5, 'prompt', '0.5')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def written_value(value: bool | int | float | str) -> str:
    """Write a value so that :func:`read_value` gives it back: a text without quotation marks, where that can be.

    Examples
    --------
    >>> written_value("prompt"), written_value("0.5"), written_value(True)
    ('prompt', '"0.5"', 'true')
    """
    return value if isinstance(value, str) and read_value(value) == value else to_toml(value)


def to_run_config(config: RunConfig) -> str:
    """Write what differs from the defaults as Flower's ``--run-config`` takes it."""
    default = RunConfig.model_validate({}).model_dump(by_alias=True)
    chosen = config.model_dump(by_alias=True)
    return " ".join(f"{key}={to_toml(value)}" for key, value in chosen.items() if value != default[key])
