"""Encrypt a file's content with a key from a key file: AES-256-GCM, with the facts about it in the clear, signed.

A sealed file is a line with its kind, a line of JSON (cipher, name of the key, facts), a random nonce of 12 bytes, and
the encrypted content with its tag. Both lines are associated data: none of it can be changed without the key.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedpurel_app.core.errors import ConfigError, DamagedError, LockedError

_MAGIC = b"fedpurel sealed 1\n"
_CIPHER = "AES-256-GCM"
_SIZE, _NONCE = 32, 12  # bytes


@dataclass(frozen=True)
class Key:
    """A secret of 32 bytes, and a name that tells keys apart and nothing else of them."""

    secret: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(b"fedpurel name of a key|" + self.secret).hexdigest()[:16]


def make_key_file(path: Path) -> Key:
    """Write a new key, readable by its owner alone.

    Raises
    ------
    ConfigError
        When the file exists: what an old key sealed could never be read again.
    """
    secret = os.urandom(_SIZE)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists, and is not overwritten: what its key sealed needs it.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}).") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    return Key(secret)


def read_key(path: Path, option: str = "") -> Key:
    """Read a key file.

    Parameters
    ----------
    path : Path
    option : str
        The command line's option that names it, for the messages, where it is only to read what was sealed; empty: it
        is named in a node config.

    Raises
    ------
    ConfigError
        When it is absent, open to others, or of another length.
    """
    given = f"{option} {path}" if option else f'key-file = "{path}"'
    # A new key opens nothing that another one sealed.
    instead = "Give the one that the site was started with." if option else f"Make one: fedpurel keygen {path}"
    try:
        others = stat.S_IMODE(path.stat().st_mode) & 0o077
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{given}: cannot be read ({error.strerror}). {instead}") from error
    if others:
        raise ConfigError(f"{given}: others than its owner may use it. Close it: chmod 600 {path}")
    if len(secret) != _SIZE:
        raise ConfigError(f"{given}: {len(secret)} bytes, a key has {_SIZE} random ones. {instead}")
    return Key(secret)


def is_sealed(content: bytes) -> bool:
    """Tell whether content was sealed, whole or not."""
    return content.startswith(_MAGIC)


def seal(content: bytes, facts: Mapping[str, str | int], key: Key) -> bytes:
    """Encrypt content; the facts stay readable, and are bound to it."""
    header = json.dumps({"cipher": _CIPHER, "key": key.name, "facts": dict(facts)}, sort_keys=True)
    before, nonce = _MAGIC + header.encode() + b"\n", os.urandom(_NONCE)
    return before + nonce + bytes(_cipher(key.secret).encrypt(nonce, content, before))


def sealed_facts(content: bytes, path: Path) -> dict[str, str | int]:
    """Read the facts of sealed content, not yet verified; ``path`` is for the message. Raises DamagedError."""
    return dict(_header(content, path)[0]["facts"])


def unseal(content: bytes, key: Key | None, path: Path) -> bytes:
    """Decrypt.

    Parameters
    ----------
    content : bytes
    key : Key or None
    path : Path
        For the message.

    Raises
    ------
    DamagedError
        When it is not what was sealed with this key.
    LockedError
        When there is no key, or another one.
    """
    header, start = _header(content, path)
    if key is None or header["key"] != key.name:
        given = "without a key" if key is None else f"with key {key.name}"
        raise LockedError(
            f"{path} is encrypted with key {header['key']}, and this node was started {given}. Start it with the key "
            "file it had: --node-config 'key-file=\"/path/to/it\"'.",
            header["key"],
        )
    from cryptography.exceptions import InvalidTag

    before, nonce, rest = content[:start], content[start : start + _NONCE], content[start + _NONCE :]
    try:
        return bytes(_cipher(key.secret).decrypt(nonce, rest, before))
    except (InvalidTag, ValueError) as error:  # too short for a nonce is a ValueError
        raise DamagedError(f"{path} is damaged (it is not what was encrypted).") from error


def _header(content: bytes, path: Path) -> tuple[dict[str, Any], int]:
    end = content.find(b"\n", len(_MAGIC))
    try:
        header = json.loads(content[len(_MAGIC) : end])
        if end < 0 or header["cipher"] != _CIPHER or not isinstance(header["facts"], dict) or "key" not in header:
            raise ValueError("no header")
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is damaged (its header cannot be read).") from error
    return header, end + 1


def _cipher(secret: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # only sites with a key pay for the import

    return AESGCM(secret)
