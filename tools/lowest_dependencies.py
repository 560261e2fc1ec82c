"""Install the lowest versions that pyproject.toml declares, all at once, and run the fast suite with them.

    python tools/lowest_dependencies.py                    # minutes, and 7 GB of disk while it runs
    python tools/lowest_dependencies.py --show             # the versions alone
    python tools/lowest_dependencies.py -- tests/functional -x

A bound that cannot be installed beside the others, or that the suite does not pass with, is not true: raise it. What is
no direct dependency comes in the newest version that fits. Needs ``uv``, which Flower brings.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
EXTRAS = ("test", "dp")  # those that the suite needs


def lower_bounds(pyproject: str, extras: Sequence[str] = EXTRAS) -> dict[str, Version]:
    """Return the lowest version of every dependency.

    Parameters
    ----------
    pyproject : str
        Text of a pyproject.toml.
    extras : sequence of str
        Optional dependencies to include.

    Returns
    -------
    dict of str to Version
        By canonical name. The higher one where two lists name one package.

    Raises
    ------
    ValueError
        When a dependency has no lower bound; all of them are named.
    """
    project = tomllib.loads(pyproject)["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    found: dict[str, Version] = {}
    unbounded = []
    for requirement in map(Requirement, texts):
        name = canonicalize_name(requirement.name)
        bounds = [Version(part.version) for part in requirement.specifier if part.operator in (">=", "==", "~=")]
        if not bounds:
            unbounded.append(str(requirement))
            continue
        found[name] = max(*bounds, found.get(name, Version("0")))
    if unbounded:
        raise ValueError(f"without a lower bound: {', '.join(unbounded)}. Add >= and the version it was tested with.")
    return found


def run(command: Sequence[str | Path], **environment: str) -> int:
    """Run a command in the repository, show it, and return its exit code."""
    print("$", " ".join(map(str, command)), flush=True)
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment).returncode


def main() -> int:
    """Install and test; the exit code is that of the first step that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the versions and end")
    parser.add_argument("--python", default="3.11", help="the interpreter; the lowest one that is supported")
    parser.add_argument("--work", type=Path, help="folder to keep the environment in; else a temporary one")
    parser.add_argument("pytest", nargs="*", help="what to pass to pytest, after --")
    options = parser.parse_args()
    bounds = lower_bounds((ROOT / "pyproject.toml").read_text())
    pins = "".join(f"{name}=={version}\n" for name, version in sorted(bounds.items()))
    print(pins, end="", flush=True)
    if options.show:
        return 0
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        print("uv is not to be found: pip install uv", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="lowest-") as scratch:
        work = (options.work or Path(scratch)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        (work / "lowest.txt").write_text(pins)
        executables = work / "venv" / "bin"
        project = f".[{','.join(EXTRAS)}]"
        steps: list[list[str | Path]] = [
            [uv, "venv", "--quiet", "--seed", "--clear", "--python", options.python, work / "venv"],
            [uv, "pip", "install", "--python", executables / "python", "-c", work / "lowest.txt", "-e", project],
            [executables / "python", "-m", "pytest", "-q", *options.pytest],
        ]
        path = f"{executables}{os.pathsep}{os.environ['PATH']}"
        return next((code for step in steps if (code := run(step, PATH=path, FEDPUREL_HOME=str(work / "home")))), 0)


if __name__ == "__main__":
    sys.exit(main())
