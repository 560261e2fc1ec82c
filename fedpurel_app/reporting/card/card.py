"""``MODEL_CARD.md``: what a finished run says of its model, for whoever gets the model and not the run.

The front matter is that of the Hugging Face Hub. All values in it are JSON, which is YAML, too.

References
----------
M. Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedpurel_app import __version__
from fedpurel_app.core.names import clean
from fedpurel_app.reporting.card.markdown import as_markdown, escaped
from fedpurel_app.reporting.card.sections import (
    data_section,
    limits_section,
    model_section,
    privacy_section,
    spread_section,
)
from fedpurel_app.reporting.columns import MODELS
from fedpurel_app.reporting.leaderboard.document import score_title
from fedpurel_app.reporting.page.lead import lead, title
from fedpurel_app.reporting.page.scores import calibration_section, scores_section
from fedpurel_app.reporting.page.setup import again_section, environment_section
from fedpurel_app.reporting.page.snapshot import Snapshot

_METRICS = {"all": "accuracy", "few": "accuracy", "balancedness": "balancedness", "ece": "expected_calibration_error"}


def card(run: Snapshot, site: str = "") -> str:
    """Write the card of a run's model.

    Parameters
    ----------
    run : Snapshot
        Where the run is not completed, the card says so.
    site : str
        Whose personalized model it is of; empty for the global one.

    Returns
    -------
    str
        Markdown: the same for the same folder, without a date, a folder's place or a host's name, and without the
        error of a run that failed, which may have them. Names that come from data are
        escaped. Sites are counted and not named, but the one whose model it is.

    Raises
    ------
    StateError
        When a file of the run is damaged.
    """
    head = [f"# {escaped(title(run))}", *map(escaped, lead(run, tells_why=False))]
    if site:
        head.append(f"This is the personalized model of {escaped(site)}: {_own_scores(run, site)}")
    sections = (
        model_section(run),
        data_section(run),
        scores_section(run),
        calibration_section(run),
        spread_section(run),
        privacy_section(run),
        limits_section(run),
        again_section(run, places=False),
        environment_section(run),
    )
    return "\n\n".join([_front_matter(run), *head, as_markdown(sections)]) + "\n"


def _own_scores(run: Snapshot, site: str) -> str:
    """Say what a site's model has on its own test part."""
    row = next((row for row in run.read_csv("sites.csv") if row["site"] == site), None)
    if row is None or not (row.get("personalized") and row.get("global") and row.get("test_images")):
        return "the site keeps its scores to itself."
    low, high = (row.get(f"personalized_{end}") for end in ("low", "high"))
    interval = f" (95 % interval {low} to {high})" if low and high else ""
    return (
        f"{row['personalized']} % of its own {row['test_images']} test images are right{interval}, and "
        f"{row['global']} % with the global model."
    )


def _front_matter(run: Snapshot) -> str:
    config, family = run.config, str(run.config["peft"])
    facts: dict[str, Any] = {
        "library_name": "fedpurel-app",
        "pipeline_tag": "image-classification",
        "tags": ["clip", "federated-learning", "long-tailed", clean(config["algorithm"], 60), clean(family, 60)],
        "metrics": ["accuracy"],
        "model-index": [{"name": title(run), "results": _results(run)}],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()]
    return "\n".join(["---", *lines, "---", "", f"<!-- Written by fedpurel {__version__} from a run folder. -->"])


def _results(run: Snapshot) -> list[dict[str, Any]]:
    """Return the scores as the Hub lists them, one entry for each model that has some."""
    found = []
    for key, name in MODELS.items():
        scores: Mapping[str, Any] = run.scores.get(key) or {}
        metrics = [
            {"type": kind, "name": f"{score_title(column)}, {name}", "value": round(scores[column], 2)}
            for column, kind in _METRICS.items()
            if scores.get(column) is not None
        ]
        if metrics:
            data = {"name": clean(run.config["dataset"], 60), "type": clean(run.config["dataset"], 60)}
            found.append({"task": {"type": "image-classification"}, "dataset": data, "metrics": metrics})
    return found
