"""Rules of aggregation and privacy."""

from __future__ import annotations

from fedpurel_app.config.model import RunConfig, default_settings
from fedpurel_app.config.rules.base import Rule, rule


def privacy_rules(config: RunConfig) -> list[Rule]:
    """List the rules of aggregation and privacy."""
    values = config.model_dump(by_alias=True)
    defaults = default_settings()
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
        rule(
            "shares aggregation privacy",
            values["shares"] == "lora-a" and clips,
            'shares = "lora-a" cannot be clipped: B is zero at first, hence the first update of A, by which Flower '
            'divides. Use shares = "all", or aggregation = "median" and privacy = "none".',
        ),
        rule(
            "prompt-relocation aggregation privacy",
            values["prompt-relocation"] != "none" and (config.privacy != "none" or config.aggregation != "mean"),
            f'prompt-relocation = "{values["prompt-relocation"]}" does not go with privacy = "{config.privacy}", '
            f'aggregation = "{config.aggregation}": the server moves tokens by what single sites tell, which neither '
            'noise nor a robust aggregation covers. Set privacy = "none" and aggregation = "mean".',
        ),
        *(
            rule(
                f"aggregation privacy {key}",
                not used and values[key] != defaults[key],
                f'{key} has no use with aggregation = "{config.aggregation}", privacy = "{config.privacy}": drop it.',
            )
            for key, used in has_use.items()
        ),
        rule(
            "aggregation privacy",
            config.aggregation != "mean" and (central or (local and config.aggregation == "norm-clipping")),
            f'privacy = "{config.privacy}" does not go with aggregation = "{config.aggregation}": '
            + ("its noise is measured for a mean" if central else "its noise would be clipped away")
            + '; set aggregation = "mean".',
        ),
        rule(
            "aggregation trim-share num-sites fraction-train",
            config.aggregation == "trimmed-mean" and config.num_sites > 0 and int(config.trim_share * cohort) == 0,
            f"trim-share = {config.trim_share:g} of {cohort} replies (fraction-train = {config.fraction_train:g} of "
            f"num-sites = {config.num_sites}) cuts off none: raise it, or take more sites.",
        ),
    ]
