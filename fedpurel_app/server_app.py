"""The ServerApp: settings to data, initial parameters, strategy and run folder; then Flower's own loop."""

from __future__ import annotations

from logging import ERROR, INFO, WARNING, getLogger

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedpurel_app.config import load_config
from fedpurel_app.core.errors import FedPurelError
from fedpurel_app.server.run import Server

app = ServerApp()
logger = getLogger("flwr.fedpurel")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run an experiment from its settings to its summary."""
    try:
        server = Server(load_config(context.run_config))
    except FedPurelError as error:
        logger.log(ERROR, str(error))
        raise
    flower = getLogger("flwr")
    level = flower.level
    logger.setLevel(INFO)
    if server.config.console == "brief":
        flower.setLevel(WARNING)  # our own lines, one a round, still reach Flower's handlers
    try:
        server.run(grid)
    finally:
        flower.setLevel(level)
