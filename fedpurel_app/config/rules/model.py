"""Rules of methods, balancers and PEFT families."""

from __future__ import annotations

from fedpurel_app.algorithms.balancers.registry import BALANCERS
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config.idle import idle_keys
from fedpurel_app.config.model import RunConfig, default_settings
from fedpurel_app.config.rules.base import Rule, rule
from fedpurel_app.config.text import to_toml


def model_rules(config: RunConfig) -> list[Rule]:
    """List the rules of methods, balancers and PEFT families, from their registries."""
    values = config.model_dump(by_alias=True)
    defaults = default_settings()
    method = METHODS[config.algorithm]
    balancer = BALANCERS[config.balancer]
    unfit, no_balance = method.unfit(values), balancer.unfit(values)
    if balancer.in_training and not method.trains:
        no_balance = f'it changes training, and algorithm = "{method.name}" trains nothing'
    return [
        *(
            rule(
                f"algorithm balancer peft {key}",
                values[key] != defaults[key],
                f"{key} = {to_toml(values[key])}: {why}. Drop it.",
            )
            for key, why in idle_keys(values).items()
        ),
        rule(
            " ".join(["algorithm peft dataset", *method.keys]),
            bool(unfit),
            f'algorithm = "{method.name}" cannot be used here: {unfit}.',
        ),
        rule(
            " ".join(["algorithm balancer dataset", *balancer.keys]),
            bool(no_balance),
            f'balancer = "{balancer.name}" cannot be used here: {no_balance}.',
        ),
        rule(
            "prompt-relocation algorithm",
            values["prompt-relocation"] != "none" and not method.trains,
            f'prompt-relocation = "{values["prompt-relocation"]}" has no use with algorithm = "{method.name}", which '
            "trains no tokens that could move. Drop it.",
        ),
        rule(
            "backbone pretrained",
            config.backbone == "demo" and config.pretrained != defaults["pretrained"],
            f'pretrained = "{config.pretrained}" has no use with backbone = "demo", which has one set of weights: drop '
            'it, or name another backbone, as "ViT-B-16".',
        ),
    ]
