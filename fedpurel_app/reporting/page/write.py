"""Write the page of a run or of a sweep."""

from __future__ import annotations

from pathlib import Path

from fedpurel_app.core.errors import DiskFullError, StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.reporting.page.render import render
from fedpurel_app.reporting.page.run_page import run_page
from fedpurel_app.reporting.page.snapshot import Snapshot
from fedpurel_app.reporting.page.sweep_page import REPORT, sweep_page


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write the page of a run or of a sweep.

    Parameters
    ----------
    path : Path
        Folder of a run or of a sweep.
    out : Path, optional
        The file; by default ``report.html`` in that folder.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StateError
        When there is neither a run nor a sweep, when a file of it is damaged, or when the page cannot be written.
    """
    out = out or path / REPORT
    page = sweep_page(path, out) if is_sweep(path) else run_page(Snapshot(path))
    try:
        write_atomically(out, render(page).encode())
    except DiskFullError:
        raise
    except OSError as error:
        raise StateError(f"{out} cannot be written ({error.strerror}): choose another --out FILE.") from error
    return out


def is_sweep(path: Path) -> bool:
    """Tell whether a folder holds a sweep.

    Raises
    ------
    StateError
        When it holds no run either.
    """
    if (path / "plan.json").is_file():
        return True
    if not (path / "config.json").is_file():
        raise StateError(f"{path} is neither a run nor a sweep: it has no config.json and no plan.json.")
    return False
