"""What ``flwr run .`` sends to the SuperLink."""

import io
import zipfile
from pathlib import Path

from flwr.cli.build import build_fab_from_files

PROJECT = Path(__file__).parent.parent


def test_the_bundle_holds_the_package_whatever_else_lies_in_the_folder():
    names = ["pyproject.toml", "README.md", "LICENSE", ".gitignore", "fedpurel_demo/__init__.py"]
    package = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "fedpurel_app").rglob("*.*")}
    package = {name for name in package if name.endswith((".py", ".toml"))}
    files = {name: PROJECT / name for name in [*names, *package]}
    fab, _ = build_fab_from_files(files | {"notes.txt": b"mine", "fedpurel_app/photo.png": b"\x89PNG", "a.ipynb": b""})
    bundled = set(zipfile.ZipFile(io.BytesIO(fab)).namelist())
    assert bundled == package | {"pyproject.toml", "README.md", "LICENSE", ".info/CONTENT"}
