"""Rules of what shortens replies."""

from __future__ import annotations

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config.model import RunConfig
from fedpurel_app.config.rules.base import Rule, rule
from fedpurel_app.models.peft.registry import FAMILIES


def compression_rules(config: RunConfig) -> list[Rule]:
    """List the rules of compression, under which the server has no single update as it was."""
    values, method = config.model_dump(by_alias=True), METHODS[config.algorithm]
    given = values["compression"]
    shortens = given != "none"
    return [
        rule(
            "compression aggregation",
            shortens and config.aggregation != "mean",
            f'aggregation = "{config.aggregation}" compares single updates, and compression = "{given}" leaves an '
            'estimate of each: set aggregation = "mean", or compression = "none".',
        ),
        rule(
            "compression privacy",
            shortens and config.privacy != "none",
            f'privacy = "{config.privacy}" clips whole updates or adds noise to them, and compression = "{given}" '
            'sends none: set one of them to "none".',
        ),
        rule(
            "compression peft prompt-relocation",
            shortens and bool(FAMILIES[config.peft].part(values)),
            f'compression = "{given}" does not go with prompt-relocation = "{values["prompt-relocation"]}", where what '
            'waits at a site is of tokens that move: set one of them to "none".',
        ),
        rule(
            "compression algorithm",
            shortens and (bool(method.part) or not method.trains),
            f'compression = "{given}" does not go with algorithm = "{method.name}", '
            + ("whose server reads every reply as it was trained" if method.trains else "which sends nothing")
            + '. Set compression = "none".',
        ),
    ]
