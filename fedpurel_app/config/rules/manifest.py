"""Rules of tables of images."""

from __future__ import annotations

from fedpurel_app.config.model import RunConfig, default_settings
from fedpurel_app.config.rules.base import Rule, rule
from fedpurel_app.config.text import to_toml

COLUMNS = ("path-column", "label-column", "split-column", "site-column")
TABLE_KEYS = (*COLUMNS, "image-root")  # what says how a table is read
_DRAWING = ("imbalance-factor", "max-per-class", "shots", "class-order", "keep-empty-classes")


def manifest_rules(config: RunConfig) -> list[Rule]:
    """List the rules of tables of images, which are used as they are."""
    values, table = config.model_dump(by_alias=True), config.dataset == "manifest"
    defaults = default_settings()
    natural = config.partition == "natural"
    columns = [values[key].casefold() for key in COLUMNS]
    return [
        rule(
            "dataset dataset-path",
            table and not config.dataset_path,
            'dataset = "manifest" needs dataset-path: a CSV or parquet file with a column of paths and one of labels.',
        ),
        *(
            rule(
                f"dataset {key}",
                not table and values[key] != defaults[key],
                f'{key} = {to_toml(values[key])} has no use with dataset = "{config.dataset}", which is no table: drop '
                'it, or set dataset = "manifest".',
            )
            for key in TABLE_KEYS
        ),
        rule(
            " ".join(COLUMNS),
            table and (len(set(columns)) < len(columns) or not all(columns)),
            f"{', '.join(f'{key} = {to_toml(values[key])}' for key in COLUMNS)}: name four different columns.",
        ),
        *(
            rule(
                f"dataset {key}",
                table and values[key] not in (defaults[key], *([1] if key == "imbalance-factor" else [])),
                f'{key} = {to_toml(values[key])} has no use with dataset = "manifest": its images are used as they '
                "are. Drop it, or take rows out of the table.",
            )
            for key in _DRAWING
        ),
        rule(
            "dataset partition",
            natural and not table and config.dataset != "sites",
            f'partition = "natural" goes by the column of sites of a table, and dataset = "{config.dataset}" is none: '
            'use "dirichlet" or "iid", or set dataset = "manifest".',
        ),
        rule(
            "dataset partition",
            table and config.partition == "pachinko",
            'partition = "pachinko" needs superclasses, and dataset = "manifest" has none: use "natural", "dirichlet" '
            'or "iid".',
        ),
        rule(
            "partition alpha",
            natural and config.alpha != defaults["alpha"],
            f'alpha = {config.alpha:g} has no use with partition = "natural", where nothing is drawn: drop it.',
        ),
    ]
