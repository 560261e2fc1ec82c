"""Certificates and keys for tests, made by openssl and ssh-keygen."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def make_authority(folder: Path, name: str) -> Path:
    """Make a certificate authority; gives its certificate."""
    _call("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
          "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt")  # fmt: skip
    return folder / f"{name}.crt"


def make_certificate(folder: Path, authority: str, name: str, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """Make a certificate for an IP address, signed by an authority; gives it and its key."""
    request, key, made, names = (folder / f"{name}.{end}" for end in ("csr", "key", "pem", "ext"))
    names.write_text(f"subjectAltName=IP:{address}\n")
    _call("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    _call("openssl", "x509", "-req", "-in", request, "-CA", folder / f"{authority}.crt", "-CAkey",
          folder / f"{authority}.key", "-CAcreateserial", "-days", "2", "-extfile", names, "-out", made)  # fmt: skip
    return made, key


def make_key(folder: Path, name: str) -> Path:
    """Make a SuperNode's pair of keys; gives the private one."""
    _call("ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", "", "-f", folder / f"{name}-node")
    return folder / f"{name}-node"


def _call(*command: object) -> None:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    subprocess.run([str(one) for one in command], check=True, capture_output=True, timeout=60)
