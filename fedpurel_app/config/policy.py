"""What a site's own settings refuse of a run. The server decides neither the rules nor whether they are applied."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fedpurel_app.config.idle import idle_keys
from fedpurel_app.config.model import RunConfig
from fedpurel_app.config.node import NodeConfig
from fedpurel_app.config.text import to_toml
from fedpurel_app.core.errors import PolicyError
from fedpurel_app.core.names import split_names
from fedpurel_app.core.sgd import SgdSettings

# Keys of a run that ask for work or room, and the node's key that bounds each.
_BOUNDED = {
    "local-epochs": "max-local-epochs",
    "local-steps": "max-steps",
    "batch-size": "max-batch-size",
    "views": "max-views",
    "lora-rank": "max-lora-rank",
    "prompt-tokens": "max-prompt-tokens",
    "context-length": "max-context-length",
    "preferences-per-step": "max-views",
    "pareto-rank": "max-lora-rank",
}
_CLIPPED = ("server-fixed", "server-adaptive", "client-fixed", "client-adaptive", "local")
_SENSITIVITY = 2.0  # of LocalDpMod, in clipping norms: two clipped updates lie that far apart


def require_served(config: RunConfig, node: NodeConfig) -> None:
    """Raise PolicyError, naming everything, when a run asks for what a node refuses."""
    if problems := refusals(config, node):
        raise PolicyError(problems)


def refusals(config: RunConfig, node: NodeConfig) -> list[str]:
    """List what a node refuses of a run: one line each, with what was asked and what is allowed."""
    return [*_bounds(config, node), *_demands(config, node)]


def require_few_steps(config: RunConfig, node: NodeConfig, images: int) -> None:
    """Raise PolicyError when a visit to a site with so many images would take more steps than its node allows."""
    if config.model_dump(by_alias=True)["split"] == "text":
        if images > node.max_batch_size:
            raise PolicyError(
                f'split = "text" is one step over all {images:,} images here: this site allows batches of at most '
                f"{node.max_batch_size:,} (max-batch-size)."
            )
        return
    pace = (config.batch_size, config.local_epochs, config.local_steps, config.drop_last)
    if SgdSettings(0.0, 0.0, 0.0, *pace).steps(images) > node.max_steps:
        raise PolicyError(
            f"local-epochs = {config.local_epochs} at batch-size = {config.batch_size} are more steps here than "
            f"max-steps = {node.max_steps} of this site allows: lower local-epochs, or raise batch-size."
        )


def require_clipping(config: RunConfig, node: NodeConfig, norm: object) -> None:
    """Raise PolicyError when a message asks a site to clip less than the run's settings and the node's say.

    Parameters
    ----------
    config : RunConfig
    node : NodeConfig
    norm : object
        ``clipping_norm`` of the message, which Flower's mods obey whatever it is: a NaN would clip nothing.
    """
    most = config.clipping_norm * (1 + 1e-9) if config.privacy == "client-fixed" else node.max_clipping_norm
    if not (isinstance(norm, int | float) and math.isfinite(norm) and 0 < norm <= min(most, node.max_clipping_norm)):
        raise PolicyError(f"this message asks for clipping to {norm!r}; this site clips to at most {most:g}.")


def _bounds(config: RunConfig, node: NodeConfig) -> Iterator[str]:
    asked, limits = config.model_dump(by_alias=True), node.model_dump(by_alias=True)
    idle = idle_keys(asked)  # what has no effect costs nothing
    for key, limit in _BOUNDED.items():
        if key not in idle and asked[key] > limits[limit]:
            yield f"{key} = {asked[key]}: this site allows at most {limits[limit]} ({limit} in its node config)."
    for key in ("learning-rate", "private-learning-rate"):
        rate = asked[key]
        if rate != "auto" and not node.min_learning_rate <= rate <= node.max_learning_rate:
            yield (
                f"{key} = {rate:g}: this site allows {node.min_learning_rate:g} to {node.max_learning_rate:g} "
                "(min-learning-rate, max-learning-rate in its node config)."
            )
    if len(config.class_names) > node.max_classes:
        yield f"{len(config.class_names)} classes: this site allows at most {node.max_classes} (max-classes)."
    rounds = sum(config.total_rounds)
    if rounds > node.max_rounds:
        yield f"{rounds} rounds: this site allows at most {node.max_rounds} (max-rounds in its node config)."


def _demands(config: RunConfig, node: NodeConfig) -> Iterator[str]:
    served, kinds = split_names(node.algorithms), split_names(node.require_privacy)
    backbones = split_names(node.backbones)
    if backbones and config.dataset != "features" and config.backbone not in backbones:
        yield f"backbone = {to_toml(config.backbone)}: this site serves {', '.join(backbones)}."
    elif not backbones and config.dataset != "features" and config.backbone.startswith("hf-hub:"):
        # open_clip's own names and tags are a closed list; to the hub anybody can publish, and the server would choose.
        yield f"backbone = {to_toml(config.backbone)}: this site's `backbones` must name what it loads from the hub."
    if served and config.algorithm not in served:
        yield f"algorithm = {to_toml(config.algorithm)}: this site serves {', '.join(served)}."
    if config.model_dump(by_alias=True)["split"] == "text" and not node.text_split:
        yield (
            'split = "text": its gradients tell which classes this site has, and near what their images lie; it is '
            "served with text-split=true in the node config alone."
        )
    if kinds and config.privacy not in kinds:
        yield f"privacy = {to_toml(config.privacy)}: this site takes part with {' or '.join(kinds)} only."
    if config.privacy in _CLIPPED and config.clipping_norm > node.max_clipping_norm:
        yield f"clipping-norm = {config.clipping_norm:g}: this site allows at most {node.max_clipping_norm:g}."
    if config.privacy in _CLIPPED and (noise := noise_of(config)) < node.min_noise_multiplier:
        how = "local-epsilon and delta make a" if config.privacy == "local" else "this run has a"
        yield f"{how} noise-multiplier of {noise:.3g}: this site wants {node.min_noise_multiplier:g} or more."


def noise_of(config: RunConfig) -> float:
    """Return the noise of a run with privacy, as a multiple of its clipping norm.

    Notes
    -----
    Of ``local``: sqrt(2 ln(1.25 / delta)) / epsilon times the sensitivity, as Flower's mod has it (the Gaussian
    mechanism; Dwork and Roth, 2014, theorem A.1).
    """
    if config.privacy != "local":
        return config.noise_multiplier
    return _SENSITIVITY * math.sqrt(2 * math.log(1.25 / config.delta)) / config.local_epsilon
