"""Rules that join several keys."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config.idle import idle_keys
from fedpurel_app.config.model import RunConfig
from fedpurel_app.config.text import to_toml
from fedpurel_app.core.files import names_weights
from fedpurel_app.core.names import plain_name
from fedpurel_app.models.peft.registry import FAMILIES


class Rule(NamedTuple):
    """A rule, the keys it joins, and what to say when it is broken."""

    keys: frozenset[str]
    is_broken: bool
    message: str


_LOCAL = ("imagefolder", "imagenet-lt", "places-lt", "aircraft")
_NATURAL = ("imagenet-lt", "places-lt")


def broken_rules(config: RunConfig) -> list[Rule]:
    """List the rules that settings break, each valid by itself."""
    parts = (_model_rules, _data_rules, _site_rules, _round_rules, _privacy_rules, _path_rules)
    return [rule for part in parts for rule in part(config) if rule.is_broken]


def _rule(keys: str, is_broken: bool, message: str) -> Rule:
    return Rule(frozenset(keys.split()), is_broken, message)


def _model_rules(config: RunConfig) -> list[Rule]:
    values = config.model_dump(by_alias=True)
    defaults = {field.alias: field.default for field in RunConfig.model_fields.values()}
    method = METHODS[config.algorithm]
    unfit = method.unfit(values)
    return [
        *(
            _rule(
                f"algorithm peft {key}",
                values[key] != defaults[key],
                f"{key} = {to_toml(values[key])}: {why}. Drop it.",
            )
            for key, why in idle_keys(values).items()
        ),
        _rule(
            " ".join(["algorithm peft dataset", *method.keys]),
            bool(unfit),
            f'algorithm = "{method.name}" cannot be used here: {unfit}.',
        ),
        _rule(
            "backbone pretrained",
            config.backbone == "demo" and config.pretrained != defaults["pretrained"],
            f'pretrained = "{config.pretrained}" has no use with backbone = "demo", which has one set of weights: drop '
            'it, or name another backbone, as "ViT-B-16".',
        ),
    ]


_DEALING = ("max-per-class", "class-order", "keep-empty-classes", "partition", "alpha", "local-test")


def _site_rules(config: RunConfig) -> list[Rule]:
    """Rules of data that the sites bring."""
    values, sites, names = config.model_dump(by_alias=True), config.dataset == "sites", config.class_names
    defaults = {field.alias: field.default for field in RunConfig.model_fields.values()}
    return [
        _rule(
            "dataset classes",
            sites and (len(names) < 2 or len({plain_name(name) for name in names}) < len(names)),
            f'dataset = "sites" needs the names of all classes, each once; classes = "{config.classes}". Example: '
            "classes = 'cat, dog, polar bear'.",
        ),
        _rule(
            "dataset classes",
            bool(names) and config.dataset not in ("sites", "features"),
            f'classes has no use with dataset = "{config.dataset}", which has names of its own: drop it.',
        ),
        _rule(
            "dataset imbalance-factor",
            sites and config.imbalance_factor not in (1, defaults["imbalance-factor"]),
            f'imbalance-factor = {config.imbalance_factor:g} has no use with dataset = "sites": all their images are '
            "used. Drop it.",
        ),
        *(
            _rule(
                f"dataset {key}",
                sites and values[key] != defaults[key],
                f'{key} has no use with dataset = "sites", where nothing is dealt out: drop it.',
            )
            for key in _DEALING
        ),
    ]


def _data_rules(config: RunConfig) -> list[Rule]:
    features = config.dataset == "features"
    family = FAMILIES[config.peft]
    fitting = " or ".join(f'"{name}"' for name, one in FAMILIES.items() if one.needs == "features")
    return [
        _rule(
            "peft dataset",
            features and family.needs != "features",
            f'peft = "{config.peft}" needs {"an" if family.needs[0] in "aeiou" else "a"} {family.needs}, and dataset = '
            f'"features" has precomputed features only: use peft = {fitting}, or an image data set.',
        ),
        _rule(
            "dataset dataset-path",
            features and not config.dataset_path,
            'dataset = "features" needs dataset-path: an .npz file of precomputed features.',
        ),
        _rule(
            "dataset dataset-path",
            config.dataset in _LOCAL and not config.dataset_path,
            f'dataset = "{config.dataset}" needs dataset-path: the folder where it lies.',
        ),
        _rule(
            "dataset imbalance-factor",
            config.dataset in _NATURAL and config.imbalance_factor != 1,
            f'dataset = "{config.dataset}" has a long tail of its own: set imbalance-factor = 1, which keeps it.',
        ),
        _rule(
            "template",
            config.template != "auto" and config.template.count("{}") != 1,
            f'template = "{config.template}" must hold "{{}}" once, where the class name goes.',
        ),
        _rule(
            "augment views",
            config.augment != "views" and config.views != RunConfig.model_fields["views"].default,
            f'views = {config.views} has no use with augment = "{config.augment}": drop it, or set augment = "views".',
        ),
        _rule(
            "dataset augment",
            config.augment != "none" and features,
            f'augment = "{config.augment}" needs images, and dataset = "features" has none: drop it.',
        ),
        _rule(
            "dataset dataset-path",
            config.dataset == "shapes" and bool(config.dataset_path),
            f'dataset-path = "{config.dataset_path}" has no use with dataset = "shapes", which is rendered: drop it, '
            "or choose another data set.",
        ),
        _rule(
            "dataset partition",
            features and config.partition == "pachinko",
            'partition = "pachinko" needs superclasses, and dataset = "features" has none: use "dirichlet" or "iid".',
        ),
        _rule(
            "dataset imbalance-factor max-per-class",
            config.imbalance_factor == 1 and config.max_per_class > 0 and config.dataset != "shapes",
            f"max-per-class = {config.max_per_class} has no use with imbalance-factor = 1, which keeps the split as it "
            "is: drop one of them.",
        ),
        _rule(
            "local-test partition",
            config.local_test == "uniform" and config.partition != "dirichlet",
            f'local-test = "uniform" works with partition = "dirichlet" only, not with "{config.partition}".',
        ),
    ]


def _round_rules(config: RunConfig) -> list[Rule]:
    cohort = max(1, int(config.fraction_train * config.num_sites))
    return [
        _rule(
            "schedule global-rounds personal-rounds",
            config.schedule == "interleaved" and config.personal_rounds not in (-1, config.global_rounds),
            f'personal-rounds = {config.personal_rounds}: schedule = "interleaved" has one personal round for each '
            f"global one ({config.global_rounds}); leave it at -1.",
        ),
        _rule(
            "global-rounds personal-rounds",
            config.global_rounds + max(0, config.personal_rounds) == 0,
            "global-rounds = 0 and no personal-rounds: there is nothing to do.",
        ),
        _rule(
            "min-replies num-sites fraction-train",
            config.num_sites > 0 and cohort < config.min_replies,
            f"min-replies = {config.min_replies}, but fraction-train = {config.fraction_train:g} of num-sites = "
            f"{config.num_sites} is {cohort}: no round could ever have enough.",
        ),
    ]


def _privacy_rules(config: RunConfig) -> list[Rule]:
    values = config.model_dump(by_alias=True)
    defaults = {field.alias: field.default for field in RunConfig.model_fields.values()}
    central, fixed = config.privacy not in ("none", "local"), config.privacy in ("server-fixed", "client-fixed")
    local = config.privacy == "local"
    has_use = {
        "trim-share": config.aggregation == "trimmed-mean",
        "clipping-norm": config.aggregation == "norm-clipping" or config.privacy != "none",
        "noise-multiplier": central,
        "delta": fixed or local,
        "local-epsilon": local,
    }
    cohort = max(1, int(config.fraction_train * config.num_sites))
    clips = config.aggregation == "norm-clipping" or config.privacy != "none"
    return [
        _rule(
            "shares aggregation privacy",
            values["shares"] == "lora-a" and clips,
            'shares = "lora-a" cannot be clipped: B is zero at first, hence the first update of A, by which Flower '
            'divides. Use shares = "all", or aggregation = "median" and privacy = "none".',
        ),
        *(
            _rule(
                f"aggregation privacy {key}",
                not used and values[key] != defaults[key],
                f'{key} has no use with aggregation = "{config.aggregation}", privacy = "{config.privacy}": drop it.',
            )
            for key, used in has_use.items()
        ),
        _rule(
            "aggregation privacy",
            config.aggregation != "mean" and (central or (local and config.aggregation == "norm-clipping")),
            f'privacy = "{config.privacy}" does not go with aggregation = "{config.aggregation}": '
            + ("its noise is measured for a mean" if central else "its noise would be clipped away")
            + '; set aggregation = "mean".',
        ),
        _rule(
            "aggregation trim-share num-sites fraction-train",
            config.aggregation == "trimmed-mean" and config.num_sites > 0 and int(config.trim_share * cohort) == 0,
            f"trim-share = {config.trim_share:g} of {cohort} replies (fraction-train = {config.fraction_train:g} of "
            f"num-sites = {config.num_sites}) cuts off none: raise it, or take more sites.",
        ),
    ]


def _path_rules(config: RunConfig) -> list[Rule]:
    paths = {
        "out": config.out,
        "resume-from": config.resume_from,
        "state-dir": config.state_dir,
        "dataset-path": config.dataset_path,
        "pretrained": config.pretrained if names_weights(config.pretrained) else "",
    }
    return [
        _rule(
            key,
            bool(path) and not Path(path).is_absolute(),
            f'{key} = "{path}" must be an absolute path: the processes that read it have folders of their own.',
        )
        for key, path in paths.items()
    ]
