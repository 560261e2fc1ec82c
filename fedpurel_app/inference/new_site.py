"""The settings under which a site that no run has met trains a private branch at home."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig, load_config
from fedpurel_app.config.rules.manifest import TABLE_KEYS
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.data.sources.source import Source

_PACE = ("local-epochs", "local-steps", "batch-size", "drop-last", "validation-share", "seed", "device")
# What deals a data set out, or says where the run had it: nothing of it is true of the data at hand.
_OF_THE_RUN = (
    *("max-per-class", "shots", "class-order", "keep-empty-classes", "imbalance-factor", "partition", "alpha"),
    *("novel-classes", "local-test", "evaluate-on", "num-sites", "min-replies", "schedule"),
    *("state-dir", "out", "resume-from", "tracker", "console", *TABLE_KEYS),
)


def allowed_keys(algorithm: str) -> list[str]:
    """Return the settings that may differ from the run's: those of personal rounds, their pace, and a table's form."""
    return [*sorted(METHODS[algorithm].personal_keys - {"schedule"}), *_PACE, *TABLE_KEYS]


def require_branch(config: RunConfig) -> None:
    """Raise ConfigError unless the method trains a private branch beside a global model that is known as a whole."""
    method = METHODS[config.algorithm]
    if method.personal_rounds and config.model_dump(by_alias=True)["shares"] == "all":
        return
    if method.personal_rounds:
        why = 'with shares = "lora-a" every site keeps a part of the global model, which a new site has not'
    elif method.personalizes or method.load().keeps_parts:
        why = "its private part is trained in global rounds, together with the other sites"
    else:
        why = "it has no private part, and its model for a new site is the global one"
    able = " or ".join(f'"{name}"' for name, one in METHODS.items() if one.personal_rounds)
    raise ConfigError(
        f'the run\'s algorithm = "{config.algorithm}" gives a new site no branch of its own: {why}. Classify with '
        f"fedpurel predict, or personalize a run with algorithm = {able}."
    )


def site_settings(
    config: RunConfig, source: Source, data: Path, changes: Mapping[str, Any]
) -> tuple[RunConfig, dict[str, Any]]:
    """Settle the settings of a new site.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    source : Source
        The classes of the run.
    data : Path
        The site's.
    changes : mapping
        Settings by key that differ from the run's.

    Returns
    -------
    RunConfig
        One site with data of its own; ``personal-rounds`` visits to them. Unless asked otherwise, these are as many as
        a site of the run had on average: ``fraction-train`` of its personal rounds, at least one.
    dict
        How a table of images is read, by key: the run's own columns, or those that are asked for.

    Raises
    ------
    ConfigError
        For a setting that cannot differ, or has no use; or where a run without personal rounds leaves their number
        open.
    """
    method, values = METHODS[config.algorithm], config.model_dump(by_alias=True)
    allowed = allowed_keys(config.algorithm)
    if odd := [key for key in changes if key not in allowed]:
        raise ConfigError(
            f"personalize cannot change {', '.join(odd)}: the private branch goes with the global model as the run "
            f"made it. It takes {', '.join(allowed)}."
        )
    if "personal-rounds" not in changes and not config.total_rounds[1]:
        raise ConfigError(
            "the run has no personal rounds: say how often the branch is trained, --set personal-rounds=8."
        )
    defaults = {str(field.alias): field.default for field in RunConfig.model_fields.values()}
    visits = max(1, round(config.fraction_train * config.total_rounds[1]))
    table = {key: changes.get(key, values[key]) for key in TABLE_KEYS}
    values |= {key: defaults[key] for key in _OF_THE_RUN}
    values |= {"imbalance-factor": 1.0, "fraction-train": 1.0, "suggested-sites": 1, "personal-rounds": visits}
    values |= {"classes": _joined(source.class_names), "dataset": "sites", "dataset-path": ""}
    if source.classifier is not None:
        values |= {"dataset": "features", "dataset-path": str(data)}
    if values["template"] == "auto":  # the data set's own
        values["template"] = source.template
    values |= {key: value for key, value in changes.items() if key not in TABLE_KEYS}
    settled = load_config(values)
    if settled.total_rounds[1] < 1 or settled.personal_rounds < 1:
        raise ConfigError(
            f"personal-rounds = {values['personal-rounds']}: choose how often {method.title}'s branch is trained, at "
            "least once."
        )
    if settled.class_names != source.class_names:
        raise ConfigError("the run's class names have both commas and semicolons, which `classes` cannot hold.")
    return settled, table


def _joined(names: Sequence[str]) -> str:
    """Write names as ``classes`` holds them."""
    return ("; " if any("," in name for name in names) else ", ").join(names)
