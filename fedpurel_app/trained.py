"""The models that a run left behind: the global one of its checkpoint, and a site's personalized one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from fedpurel_app.config import load_config
from fedpurel_app.errors import StateError
from fedpurel_app.experiment import Experiment
from fedpurel_app.files import home
from fedpurel_app.models.peft import PeftModule, Role, load_parameters
from fedpurel_app.models.peft.base import Logits
from fedpurel_app.private_store import PrivateStore
from fedpurel_app.reporting.run_folder import RunFolder


@dataclass(frozen=True)
class TrainedModel:
    """A global model, alone or with a site's private branch.

    Attributes
    ----------
    experiment : Experiment
        What the run's settings determine.
    branches : dict of {"global", "private"} to PeftModule
    experiment_id : str
    round : int
        Of the checkpoint.
    site : str
        Empty for the global model.
    """

    experiment: Experiment
    branches: dict[Role, PeftModule]
    experiment_id: str
    round: int
    site: str = ""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, length C."""
        return self.experiment.host.class_names

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Compute l_G, or l_G + l_P for a site, shape (B, C), from what the branches take: features or uint8 pixels."""
        return torch.stack([function(inputs) for function in self._functions]).sum(0)

    @cached_property
    def _functions(self) -> list[Logits]:
        return [branch.frozen() for branch in self.branches.values()]


def load_trained(run: Path, site: str = "", state_dir: Path | None = None) -> TrainedModel:
    """Load what a run trained.

    Parameters
    ----------
    run : Path
        A run folder.
    site : str
        Name of a site, for its personalized model; empty for the global one.
    state_dir : Path, optional
        Folder of private branches: at a real site its ``state-dir``. In a simulation it is found by itself.

    Returns
    -------
    TrainedModel

    Raises
    ------
    StateError
        When the folder holds no run or no checkpoint, the data set now has other classes, or there is no such site or
        private branch.
    ConfigError, DataError
        When the backbone or the data set are not to be had any more.
    """
    folder = RunFolder.open(run)
    # Where the run's GPU is not, a CPU will do.
    config = load_config({**folder.read_json("config.json")["config"], "device": "auto"})
    arrays, state = folder.read_checkpoint()
    tensors: dict[Role, Mapping[str, npt.NDArray[Any]]] = {"global": arrays}
    if site:
        root = state_dir or (Path(config.state_dir) if config.state_dir else folder.path / "private")
        tensors["private"] = _private_branch(state, site, root)
    experiment = Experiment(config, home() / "cache")
    _refuse_other_classes(folder, experiment)
    branches = {}
    for role, named in tensors.items():
        branches[role] = experiment.new_branch(role)
        try:
            load_parameters(branches[role], {name: torch.from_numpy(value) for name, value in named.items()})
        except ValueError as error:
            raise StateError(f"{run}: the {role} parameters do not fit the run's own settings ({error}).") from error
    return TrainedModel(experiment, branches, str(state["experiment_id"]), int(state["round"]), site)


def _private_branch(state: Mapping[str, Any], site: str, root: Path) -> Mapping[str, npt.NDArray[Any]]:
    """Read the private branch that the checkpoint knows of."""
    known, trained = sorted(state["roster"]), sorted(state["private_rounds"])
    if site not in known:
        raise StateError(f'the run has no site "{site}"; its sites: {", ".join(known) or "none"}.')
    if site not in trained:
        raise StateError(
            f"{site} trained no private branch up to round {state['round']}: its model is the global one, without "
            f"--site. Sites with a branch: {', '.join(trained) or 'none'}."
        )
    return PrivateStore(root, str(state["experiment_id"]), site).load(int(state["private_rounds"][site]))


def _refuse_other_classes(folder: RunFolder, experiment: Experiment) -> None:
    """Refuse a data set that has changed since: a prediction would bear the wrong name."""
    then = [row["name"] for row in folder.read_csv("classes.csv")]
    now = list(experiment.source.class_names)
    if then and then != now:
        odd = sorted(set(then) ^ set(now))[:3] or "their order"
        raise StateError(
            f"{experiment.source.name} now has other classes than in the run ({odd}): bring the old data back."
        )
