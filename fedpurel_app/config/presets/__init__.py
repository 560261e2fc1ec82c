"""Presets: TOML files that list only what differs from the defaults."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fedpurel_app.config.checking import without_idle
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.files import names_weights

DEFAULT_PRESET = "shapes"
PATH_KEYS = frozenset({"dataset-path", "image-root", "state-dir"})


@dataclass(frozen=True)
class Preset:
    """A preset.

    Attributes
    ----------
    name : str
        File name without ending, with its folder: ``shapes``, ``paper/cifar100-prompt``.
    title : str
        First line of the comment at its top.
    expect : str
        What its comment says to expect; empty when it says nothing.
    values : dict
        Settings by key.
    """

    name: str
    title: str
    expect: str
    values: dict[str, Any]


def load_preset(name: str) -> Preset:
    """Load a preset by name, or any TOML file by path.

    Raises
    ------
    ConfigError
        When there is none of that name, or it is not valid TOML, or names a run folder.

    Notes
    -----
    Relative paths in a preset are relative to its file.
    """
    path = Path(name) if name.endswith(".toml") else _folder() / f"{name}.toml"
    if not path.is_file():
        known = preset_names()
        near = [one for one in known if name in one] or difflib.get_close_matches(name, known, 3)
        quoted = [f'"{one}"' for one in near[:3]]
        hint = f" Did you mean {' or '.join(quoted)}?" if near else ""
        raise ConfigError(f'no preset "{name}": choose one of {", ".join(known)}, or the path of a TOML file.{hint}')
    try:
        text = path.read_text("utf-8")
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {error}") from error
    misplaced = sorted({"out", "resume-from"} & set(values))
    if misplaced:
        raise ConfigError(f"{path}: {', '.join(misplaced)} belong on the command line (--out, --resume), not here.")
    values = {key: anchored(key, value, path.absolute().parent) for key, value in values.items()}
    comment = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    expect = " ".join(line.removeprefix("expect:").strip() for line in comment if line.startswith("expect:"))
    return Preset(name, comment[0] if comment else "", expect, values)


def merged(preset: Preset, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Put changes over a preset; what another method or family than its own has no use for gives way."""
    return without_idle({**preset.values, **asked}, kept=asked)


def anchored(key: str, value: Any, folder: Path) -> Any:
    """Return a setting as it is, but a relative path, of data or of weights, as one from a folder on.

    Examples
    --------
    >>> anchored("dataset-path", "x.npz", Path("/data")), anchored("peft", "prompt", Path("/data"))
    ('/data/x.npz', 'prompt')
    """
    is_path = key in PATH_KEYS or (key == "pretrained" and names_weights(str(value)))
    return str(folder / Path(value).expanduser()) if is_path and isinstance(value, str) and value else value


def preset_names() -> list[str]:
    """List the presets that come with the package."""
    folder = _folder()
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.toml"))


def _folder() -> Path:
    return Path(str(resources.files("fedpurel_app.config.presets")))
