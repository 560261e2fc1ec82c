"""``fedpurel data check``: what is there of a data set, and what is wrong with it, before any run."""

from __future__ import annotations

import argparse
import json

from fedpurel_app.config import load_config
from fedpurel_app.config.rules.manifest import TABLE_KEYS
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.names import listed
from fedpurel_app.data.sources.manifest import form_of
from fedpurel_app.data.sources.survey import summary, survey
from fedpurel_app.launch import choose
from fedpurel_app.reporting.console import counting
from fedpurel_app.reporting.data_report import data_lines

_KEYS = (*TABLE_KEYS, "classes", "group-by", "seed")


def data_check(options: argparse.Namespace) -> int:
    """Print what was found; returns 1 when something is wrong, else 0.

    Raises
    ------
    ConfigError, DataError
        When settings are wrong that it takes, or there is no data set at all.
    """
    asked = choose.assignments(options.set)
    if odd := [key for key in asked if key not in _KEYS]:
        raise ConfigError(f"data check has no use for {listed(odd)}: of the settings it takes {', '.join(_KEYS)}.")
    path = options.path.expanduser().absolute()
    config = load_config({**asked, "dataset": "manifest", "dataset-path": str(path)})
    with counting("Looking at images") as report:
        found = survey(path, form_of(config.model_dump(by_alias=True)), report)
    if found.kind != "manifest" and (odd := [key for key in asked if key in TABLE_KEYS]):
        raise ConfigError(f"{', '.join(odd)} tell how a table of images is read, and {path} is none: drop them.")
    facts = {"path": str(path), **summary(found, config.group_by)}
    print(json.dumps(facts, indent=2) if options.json else "\n".join(data_lines(facts)))
    return 1 if found.problems else 0
