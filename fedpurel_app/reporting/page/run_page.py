"""The page of a run."""

from __future__ import annotations

from fedpurel_app import __version__
from fedpurel_app.core.names import clean
from fedpurel_app.reporting.console import text_lines
from fedpurel_app.reporting.page.blocks import Code, Page, Section
from fedpurel_app.reporting.page.drawn import classes_section, partition_section, rounds_section, tokens_section
from fedpurel_app.reporting.page.lead import lead, title, todo
from fedpurel_app.reporting.page.scores import calibration_section, scores_section
from fedpurel_app.reporting.page.setup import again_section, configuration_section, costs_section
from fedpurel_app.reporting.page.sites import dropped_section, sites_section
from fedpurel_app.reporting.page.snapshot import Snapshot


def run_page(run: Snapshot, refresh: int = 0) -> Page:
    """Return the page of a run as it is now.

    Parameters
    ----------
    run : Snapshot
    refresh : int
        Seconds after which a page of a run that goes on loads itself anew; 0 = never.

    Raises
    ------
    StateError
        When a file of the run is damaged.
    """
    sections = (
        *_error(run),
        scores_section(run),
        classes_section(run),
        rounds_section(run),
        *tokens_section(run),
        sites_section(run),
        calibration_section(run),
        dropped_section(run),
        costs_section(run),
        partition_section(run),
        configuration_section(run),
        again_section(run),
    )
    foot = f"Run folder {clean(run.path.name, 200)}; made by fedpurel {__version__}. Scores: docs/metrics.md."
    wait = refresh if run.state == "running" else 0
    return Page(title(run), run.state, lead(run), todo(run), sections, foot, wait)


def _error(run: Snapshot) -> list[Section]:
    """Return the error that ended a run, whole."""
    error = (run.outcome or {}).get("error")
    return [Section("error", "Why it ended", (Code(text_lines(error), "Error"),))] if error else []
