"""Settings of a run, checked before any work starts. :class:`RunConfig` is the only source of defaults.

``python -m fedpurel_app.config`` prints the run-config table that stands in ``pyproject.toml``.
"""

from fedpurel_app.config.checking import PLACE_KEYS, load_config, require_same, stored_config, without_idle
from fedpurel_app.config.model import RunConfig
from fedpurel_app.config.node import NODE_EXAMPLE, NodeConfig, load_node_config
from fedpurel_app.config.policy import refusals, require_clipping, require_few_steps, require_served
from fedpurel_app.config.text import (
    describe_keys,
    known_keys,
    read_value,
    run_config_table,
    to_run_config,
    to_toml,
    written_value,
)

__all__ = [
    "NODE_EXAMPLE",
    "PLACE_KEYS",
    "NodeConfig",
    "RunConfig",
    "describe_keys",
    "known_keys",
    "load_config",
    "load_node_config",
    "read_value",
    "refusals",
    "require_clipping",
    "require_few_steps",
    "require_same",
    "require_served",
    "run_config_table",
    "stored_config",
    "to_run_config",
    "to_toml",
    "without_idle",
    "written_value",
]
