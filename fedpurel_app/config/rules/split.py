"""Rules of the text split."""

from __future__ import annotations

from fedpurel_app.config.model import RunConfig
from fedpurel_app.config.rules.base import Rule, rule

_METHODS = ("fedavg", "fedpurel")


def split_rules(config: RunConfig) -> list[Rule]:
    """List the rules of ``split = "text"``, where a global round is one step of all sites, taken at the server."""
    values = config.model_dump(by_alias=True)
    splits = values["split"] == "text"
    return [
        rule(
            "split algorithm",
            splits and config.algorithm not in _METHODS,
            f'split = "text" does not go with algorithm = "{config.algorithm}": only '
            + " and ".join(f'"{name}"' for name in _METHODS)
            + " are known by the gradient at the text features.",
        ),
        rule(
            "split novel-classes",
            splits and bool(config.novel_names),
            'split = "text" does not go with novel-classes: what is sent are text features of the classes that are '
            "trained on. Drop one of them.",
        ),
        rule(
            "split balancer",
            splits and config.balancer == "fed-grab",
            'split = "text" does not go with balancer = "fed-grab", whose controllers move with every step of a site.',
        ),
        rule(
            "split aggregation privacy",
            splits and (config.privacy != "none" or config.aggregation == "norm-clipping"),
            'split = "text": sites send gradients, and norms of updates are clipped; set privacy = "none" and '
            'aggregation = "mean", "median" or "trimmed-mean".',
        ),
        rule(
            "split compression",
            splits and values["compression"] != "none",
            'split = "text" does not go with compression, which shortens updates of what was sent: drop one of them.',
        ),
    ]
