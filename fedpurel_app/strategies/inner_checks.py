"""What FedPuReL asks of the strategy that aggregates its global rounds."""

from __future__ import annotations

from flwr.serverapp.strategy import FedTrimmedAvg, Strategy

from fedpurel_app.core.errors import RunError


def layers(strategy: Strategy) -> list[Strategy]:
    """Unwrap strategies that wrap another one (differential privacy), outermost first."""
    found = [strategy]
    while isinstance(within := getattr(found[-1], "strategy", None), Strategy):
        found.append(within)
    return found


def refuse_sampling(strategy: Strategy) -> None:
    """Raise ValueError when an inner strategy would draw a part of the cohort again."""
    for layer in layers(strategy):
        fraction = getattr(layer, "fraction_train", 1.0)
        if fraction != 1.0:
            raise ValueError(
                f"{type(layer).__name__} has fraction_train = {fraction}: the cohort is drawn by FedPuReL, so give the "
                "inner strategy fraction_train=1.0."
            )


def refuse_idle(strategy: Strategy, replies: int) -> None:
    """Raise RunError when a trimmed mean of so many replies would trim none: it would be a mean without protection."""
    share = getattr(strategy, "beta", None)
    if isinstance(strategy, FedTrimmedAvg) and share and int(share * replies) == 0:
        raise RunError(f"beta = {share:g} of {replies} replies trims none: raise it, or fraction_train.")


def refuse_waiting(strategy: Strategy, nodes: int) -> None:
    """Raise RunError when an inner strategy would wait for ever for nodes that it is never shown."""
    for layer in layers(strategy):
        needed = max(getattr(layer, "min_train_nodes", 1), getattr(layer, "min_available_nodes", 1))
        if 0 < nodes < needed:
            raise RunError(
                f"{type(layer).__name__} wants at least {needed} nodes, the cohort has {nodes}. Construct it with "
                "min_train_nodes=1 and min_available_nodes=1, or raise fraction_train."
            )
