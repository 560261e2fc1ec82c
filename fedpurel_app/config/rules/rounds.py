"""Rules of rounds, and of how sites take part in them."""

from __future__ import annotations

from fedpurel_app.config.model import RunConfig
from fedpurel_app.config.rules.base import Rule, rule


def round_rules(config: RunConfig) -> list[Rule]:
    """List the rules of rounds."""
    cohort = max(1, int(config.fraction_train * config.num_sites))
    return [
        rule(
            "schedule global-rounds personal-rounds",
            config.schedule == "interleaved" and config.personal_rounds not in (-1, config.global_rounds),
            f'personal-rounds = {config.personal_rounds}: schedule = "interleaved" has one personal round for each '
            f"global one ({config.global_rounds}); leave it at -1.",
        ),
        rule(
            "validation-share select-by",
            config.validation_share == 0 and config.select_by != RunConfig.model_fields["select_by"].default,
            f'select-by = "{config.select_by}" has no use with validation-share = 0, where no model is chosen: drop it '
            "or set validation-share = 0.1.",
        ),
        rule(
            "select-by share-class-counts",
            config.select_by != "all" and config.share_class_counts is False,
            f'select-by = "{config.select_by}" needs class counts, and share-class-counts = false keeps them at the '
            'sites: share them, or set select-by = "all".',
        ),
        rule(
            "local-epochs local-steps",
            config.local_steps > 0 and config.local_epochs != 1,
            f"local-epochs = {config.local_epochs} has no use with local-steps = {config.local_steps}, which takes its "
            "place: drop one of them.",
        ),
        rule(
            "global-rounds personal-rounds",
            config.global_rounds + max(0, config.personal_rounds) == 0,
            "global-rounds = 0 and no personal-rounds: there is nothing to do.",
        ),
        rule(
            "min-replies num-sites fraction-train",
            config.num_sites > 0 and cohort < config.min_replies,
            f"min-replies = {config.min_replies}, but fraction-train = {config.fraction_train:g} of num-sites = "
            f"{config.num_sites} is {cohort}: no round could ever have enough.",
        ),
    ]
