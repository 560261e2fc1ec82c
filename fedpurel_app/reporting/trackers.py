"""Experiment trackers: server side only, off by default, imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedpurel_app.core.errors import ConfigError


class Tracker(Protocol):
    """Where numbers go, beside the run folder."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the numbers of one round."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...


class TensorBoard:
    """Event files under ``tensorboard/`` in the run folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._writer = require_tracker("tensorboard").Writer(str(folder / "tensorboard"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class Wandb:
    """A Weights & Biases run; ``WANDB_MODE=offline`` keeps it on this machine."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._run = require_tracker("wandb").init(
            project="fedpurel", name=folder.name, dir=str(folder), config=dict(settings)
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class Mlflow:
    """An MLflow run; ``MLFLOW_TRACKING_URI`` says where, by default a database in the run folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._mlflow = require_tracker("mlflow")
        import os

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            self._mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        self._mlflow.set_experiment("fedpurel")
        self._mlflow.start_run(run_name=folder.name)
        self._mlflow.log_params(dict(settings))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        self._mlflow.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


_PACKAGES: Mapping[str, str] = {"tensorboard": "tensorboard.summary", "wandb": "wandb", "mlflow": "mlflow"}
_TRACKERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
}


def open_trackers(name: str, folder: Path, settings: Mapping[str, Any]) -> list[Tracker]:
    """Open the tracker of that name; none for "none".

    Raises
    ------
    ConfigError
        When its package is not installed.
    """
    return [] if name == "none" else [_TRACKERS[name](folder, settings)]


def require_tracker(name: str) -> Any:
    """Import a tracker's package; None for "none". Raises ConfigError with what to install when it is absent."""
    if name == "none":
        return None
    try:
        return importlib.import_module(_PACKAGES[name])
    except ModuleNotFoundError as error:
        raise ConfigError(f'tracker = "{name}" needs: pip install "fedpurel-app[{name}]"') from error
