"""Where a site reads from and writes to: where its node says, whatever path a server names."""

from __future__ import annotations

from pathlib import Path

from fedpurel_app.config import NODE_EXAMPLE, NodeConfig, RunConfig
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.files import home, names_weights


def with_own_paths(config: RunConfig, node: NodeConfig, simulated: bool) -> RunConfig:
    """Return a run's settings with the node's own paths; in a simulation both are on the user's own machine.

    Parameters
    ----------
    config : RunConfig
        As the server sent them. None of its paths is looked at.
    node : NodeConfig
    simulated : bool
        Whether the node exists inside a simulation.

    Raises
    ------
    ConfigError
        Naming everything in which the run and the node do not fit each other.
    """
    own, problems = not node.has_part, []
    if own and config.dataset not in ("sites", "features"):
        problems.append(
            f'This node brings data of its own, and the run\'s dataset = "{config.dataset}" is dealt out: start '
            "the node with 'partition-id=0 num-partitions=3' as well, or run with dataset = \"sites\"."
        )
    if own and config.dataset == "features" and not config.classes:
        problems.append("The files of all sites must have the same classes: let the run name them, `classes`.")
    if own and config.dataset == "features" and (config.imbalance_factor != 1 or config.shots):
        problems.append("Sites with data of their own use all of it: run with imbalance-factor = 1, without shots.")
    if not own and config.dataset == "sites":
        problems.append(f"This run is for sites with data of their own: start this node with {NODE_EXAMPLE}.")
    if not simulated and names_weights(config.pretrained) and not node.pretrained:
        problems.append(
            "This run's backbone comes from a file: start this node with --node-config 'pretrained=\"/path/to/it\"'."
        )
    if problems:
        raise ConfigError(problems)
    if simulated and not own:
        return config
    names = ("path_column", "label_column", "split_column", "site_column") if own else ()
    columns = {name: getattr(node, name) for name in names}  # of a table of its own; of a copy the run says them
    paths = {"dataset_path": node.data, "image_root": node.image_root}
    return config.model_copy(update={**columns, **paths, "pretrained": node.pretrained or config.pretrained})


def cache_folder(node: NodeConfig, simulated: bool) -> Path:
    """Return the folder of a node's feature cache; sites of a simulation share their user's."""
    # No experiment can have a name that begins with a dot.
    return Path(node.state_dir) / ".cache" if node.state_dir and not simulated else home() / "cache"


def private_folder(node: NodeConfig, otherwise: str = "") -> Path:
    """Return the folder of a node's private state: its own, else another one if there is any, else this user's."""
    folder = node.state_dir or otherwise
    return Path(folder) if folder else home() / "private"
