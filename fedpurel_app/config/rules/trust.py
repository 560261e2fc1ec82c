"""Rules of trust in replies."""

from __future__ import annotations

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.algorithms.unfit import hides_replies, makes_fingerprints
from fedpurel_app.config.idle import idle_keys
from fedpurel_app.config.model import RunConfig, default_settings
from fedpurel_app.config.rules.base import Rule, rule


def trust_rules(config: RunConfig) -> list[Rule]:
    """List the rules of trust in replies."""
    values = config.model_dump(by_alias=True)
    defaults = default_settings()
    method = METHODS[config.algorithm]
    chosen = 'trust = "predictions"' + (f', which algorithm = "{method.name}" sets,' if config.trust == "auto" else "")
    on = config.trusts
    idle = idle_keys(values)
    probed = on or "cluster-distance" not in idle or ("task-embedding" not in idle and makes_fingerprints(values))
    return [
        *(
            rule(
                f"trust {key}",
                not used and values[key] != defaults[key],
                f'{key} has no use with trust = "none": drop it, or set trust = "predictions".',
            )
            for key, used in (("trust-tolerance", on), ("probe-path", probed))
        ),
        rule(
            "trust privacy aggregation",
            on and bool(why := hides_replies(values)),
            f"{chosen} cannot be used here: {why}." if on else "",
        ),
        rule(
            "trust global-rounds",
            on and config.global_rounds == 0,
            f"{chosen} has no use with global-rounds = 0: it weighs the replies of global rounds. Drop it.",
        ),
        rule(
            "trust shares",
            on and values["shares"] == "lora-a",
            f'{chosen} goes by how the model of a reply predicts, and with shares = "lora-a" its sites keep a part of '
            'it: set shares = "all".',
        ),
        rule(
            "trust algorithm",
            on and method.keeps_global,
            f'{chosen} goes by how the model of a reply predicts, and with algorithm = "{method.name}" its sites keep '
            "a part of it: use another algorithm.",
        ),
        rule(
            "trust compression split",
            on and (values["compression"] == "sketch" or values["split"] == "text"),
            f"{chosen} goes by how the model of a reply predicts, and "
            + (
                'split = "text" sends gradients in its place: set split = "none".'
                if values["split"] == "text"
                else 'compression = "sketch" leaves a coarse estimate of it: set compression = "none" or "top-k".'
            ),
        ),
        rule(
            "trust algorithm",
            on and not method.trains,
            f'{chosen} has no use with algorithm = "{method.name}", which trains nothing: drop it.',
        ),
        rule(
            "probe-path dataset",
            bool(config.probe_path) and config.dataset == "features",
            'probe-path has no use with dataset = "features", which has no tower to encode images with: drop it; '
            "probes are made of the text features.",
        ),
    ]
