"""Rules of data."""

from __future__ import annotations

from fedpurel_app.config.model import RunConfig, default_settings
from fedpurel_app.config.rules.base import Rule, rule
from fedpurel_app.config.text import to_toml
from fedpurel_app.core.names import plain_name
from fedpurel_app.models.peft.registry import FAMILIES

_LOCAL = ("imagefolder", "imagenet-lt", "places-lt", "aircraft")
_NATURAL = ("imagenet-lt", "places-lt")
_DEALING = ("max-per-class", "shots", "class-order", "keep-empty-classes", "partition", "alpha", "local-test")


def site_rules(config: RunConfig) -> list[Rule]:
    """Rules of data that the sites bring."""
    values, sites, names = config.model_dump(by_alias=True), config.dataset == "sites", config.class_names
    defaults = default_settings()
    return [
        rule(
            "dataset classes",
            sites and (len(names) < 2 or len({plain_name(name) for name in names}) < len(names)),
            f'dataset = "sites" needs the names of all classes, each once; classes = "{config.classes}". Example: '
            "classes = 'cat, dog, polar bear'.",
        ),
        rule(
            "dataset classes",
            bool(names) and config.dataset not in ("sites", "features", "manifest"),
            f'classes has no use with dataset = "{config.dataset}", which has names of its own: drop it.',
        ),
        rule(
            "dataset imbalance-factor",
            sites and config.imbalance_factor not in (1, defaults["imbalance-factor"]),
            f'imbalance-factor = {config.imbalance_factor:g} has no use with dataset = "sites": all their images are '
            "used. Drop it.",
        ),
        *(
            rule(
                f"dataset {key}",
                sites and values[key] != defaults[key],
                f'{key} has no use with dataset = "sites", where nothing is dealt out: drop it.',
            )
            for key in _DEALING
        ),
        rule(
            "dataset novel-classes",
            sites and bool(config.novel_names),
            'novel-classes has no use with dataset = "sites": the server has no images to score them on. Drop it.',
        ),
        rule(
            "dataset evaluate-on",
            sites and config.evaluate_on != "test",
            f'evaluate-on = "{config.evaluate_on}" has no use with dataset = "sites", which bring their own test '
            "parts: drop it, or choose by validation-share and select-by.",
        ),
    ]


def shot_rules(config: RunConfig) -> list[Rule]:
    """List the rules of few-shot splits, which take the place of the long-tail profile."""
    values = config.model_dump(by_alias=True)
    defaults = default_settings()
    idle = ["imbalance-factor", "class-order", "keep-empty-classes"]
    idle += ["max-per-class"] if config.dataset != "shapes" else []  # there it says how many are rendered
    return [
        rule(
            f"shots {key}",
            config.shots > 0
            and config.dataset != "manifest"  # which refuses both
            and values[key] not in (defaults[key], *([1] if key == "imbalance-factor" else [])),
            f"{key} = {to_toml(values[key])} has no use with shots = {config.shots}, which takes the place of the "
            "long-tail profile: drop one of them.",
        )
        for key in idle
    ]


def data_rules(config: RunConfig) -> list[Rule]:
    """List the rules of data sets."""
    features, rendered = config.dataset == "features", config.dataset == "shapes"
    family = FAMILIES[config.peft]
    fitting = " or ".join(f'"{name}"' for name, one in FAMILIES.items() if one.needs == "features")
    return [
        rule(
            "peft dataset",
            features and family.needs_of(config.model_dump(by_alias=True)) != "features",
            f'peft = "{config.peft}" needs {"an" if family.needs[0] in "aeiou" else "a"} {family.needs}, and dataset = '
            f'"features" has precomputed features only: use peft = {fitting}, or an image data set'
            + (', or split = "text", which leaves the text tower at the server.' if "split" in family.keys else "."),
        ),
        rule(
            "dataset dataset-path",
            features and not config.dataset_path,
            'dataset = "features" needs dataset-path: an .npz file of precomputed features.',
        ),
        rule(
            "dataset dataset-path",
            config.dataset in _LOCAL and not config.dataset_path,
            f'dataset = "{config.dataset}" needs dataset-path: the folder where it lies.',
        ),
        rule(
            "dataset imbalance-factor",
            config.dataset in _NATURAL and config.imbalance_factor != 1 and not config.shots,
            f'dataset = "{config.dataset}" has a long tail of its own: set imbalance-factor = 1, which keeps it.',
        ),
        rule(
            "template",
            config.template != "auto" and config.template.count("{}") != 1,
            f'template = "{config.template}" must hold "{{}}" once, where the class name goes.',
        ),
        rule(
            "augment views",
            config.augment != "views" and config.views != RunConfig.model_fields["views"].default,
            f'views = {config.views} has no use with augment = "{config.augment}": drop it, or set augment = "views".',
        ),
        rule(
            "dataset augment",
            config.augment != "none" and features,
            f'augment = "{config.augment}" needs images, and dataset = "features" has none: drop it.',
        ),
        rule(
            "dataset dataset-path",
            rendered and bool(config.dataset_path),
            f'dataset-path = "{config.dataset_path}" has no use with dataset = "shapes", which is rendered: drop it, '
            "or choose another data set.",
        ),
        rule(
            "dataset partition",
            features and config.partition == "pachinko",
            'partition = "pachinko" needs superclasses, and dataset = "features" has none: use "dirichlet" or "iid".',
        ),
        rule(
            "dataset imbalance-factor max-per-class shots",
            config.max_per_class > 0
            and config.imbalance_factor == 1
            and not (config.shots or rendered or config.dataset == "manifest"),
            f"max-per-class = {config.max_per_class} has no use with imbalance-factor = 1, which keeps the split as it "
            "is: drop one of them.",
        ),
        rule(
            "local-test partition",
            config.local_test == "uniform" and config.partition != "dirichlet",
            f'local-test = "uniform" works with partition = "dirichlet" only, not with "{config.partition}".',
        ),
    ]
