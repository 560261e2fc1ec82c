"""Print the run-config table for ``pyproject.toml``."""

from fedpurel_app.config import run_config_table

print(run_config_table(), end="")
