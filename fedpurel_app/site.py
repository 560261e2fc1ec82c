"""One site: its data, its private branch, and what it answers to each kind of message."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedpurel_app.config import RunConfig, load_config
from fedpurel_app.errors import ConfigError, DataError, RunError, StateError
from fedpurel_app.experiment import Experiment
from fedpurel_app.files import home, names_weights
from fedpurel_app.models.peft import PeftModule, load_parameters, parameters_of
from fedpurel_app.private_store import PrivateStore
from fedpurel_app.records import Arrays, Description, Instruction, counts_to_metrics
from fedpurel_app.seeding import derive_seed
from fedpurel_app.training.evaluation import evaluate
from fedpurel_app.training.local import global_step, residual_step, train

Metrics = dict[str, Any]
Named = dict[str, npt.NDArray[np.float32]]


@lru_cache(maxsize=1)
def _experiment(config: RunConfig, cache: Path) -> Experiment:
    """Keep frozen and shared things for the life of the process; sites that share a process share them."""
    return Experiment(config, cache)


class Site:
    """A site as one message meets it.

    Parameters
    ----------
    run_config : mapping
        Settings of the run.
    node_config : mapping
        Settings of this node: ``partition-id`` and ``num-partitions`` (a simulation sets them), ``state-dir``,
        ``dataset-path``, ``pretrained``, and ``share-class-counts = false``, which no run config overrules.

    Raises
    ------
    ConfigError
        When the settings are wrong.
    DataError
        When the node has no part in the data.
    """

    def __init__(self, run_config: Mapping[str, Any], node_config: Mapping[str, Any]) -> None:
        # The number of threads decides the last bits of a result. Ray sets OMP_NUM_THREADS to what a site gets.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
        self._started = time.monotonic()
        self._node_config = node_config
        self.config = self._own_paths(load_config(run_config))
        if not {"partition-id", "num-partitions"} <= set(node_config):
            raise DataError(
                "This node has no part in the data: start it with --node-config 'partition-id=0 num-partitions=3' "
                "(its number, and how many there are)."
            )
        self.index, self.sites = int(node_config["partition-id"]), int(node_config["num-partitions"])
        if not 0 <= self.index < self.sites:
            raise DataError(f"partition-id = {self.index}: must be 0 to num-partitions - 1 = {self.sites - 1}.")
        self.sites = self.config.num_sites or self.sites
        self.name = f"site-{self.index:0{len(str(self.sites - 1))}d}"
        self.experiment = _experiment(self.config, home() / "cache")
        self._features_before = self.experiment.feature_seconds

    # --- messages ---------------------------------------------------------------------------------------------------

    def describe(self) -> Description:
        """Say who this site is; ``num_examples`` is 0 for a node beyond the number of sites asked for."""
        spare = self.index >= self.sites
        count = 0 if spare else len(self._rows("train"))
        return Description(self.name, count, self.sites, self.experiment.device.type)

    def train_global(self, arrays: Arrays, instruction: Instruction) -> tuple[Named, Metrics]:
        """Train the shared parameters on this site's data; give what may be shared."""
        experiment = self.experiment
        if self.config.total_rounds[1] and experiment.algorithm.personalization is not None:
            self._store(instruction)  # where no private branch could be kept, say so before the work
        module = self._global_branch(arrays)
        data = experiment.training_data(self._rows("train"), module.takes_pixels)
        step = global_step(experiment.algorithm, experiment.options)
        metrics = train(module, data, step, experiment.sgd("global"), self._order(instruction))
        return _numpy(module), self._reply(metrics, len(data.labels))

    def train_private(self, arrays: Arrays, instruction: Instruction) -> Metrics:
        """Train this site's private branch on top of the frozen global model, and keep it here."""
        experiment = self.experiment
        if experiment.algorithm.personalization is None:
            raise RunError(f'algorithm = "{experiment.algorithm.name}" has no private part to train.')
        frozen, private = self._global_branch(arrays), self._private_branch(arrays, instruction)
        data = experiment.training_data(self._rows("train"), private.takes_pixels).measured_against(frozen.frozen())
        settings = experiment.sgd("private")
        metrics = train(private, data, residual_step(experiment.options), settings, self._order(instruction))
        tensors = _numpy(private)
        if not all(np.isfinite(value).all() for value in tensors.values()):
            raise RunError("the private branch diverged (NaN or Inf) and was not kept: lower private-learning-rate.")
        squares = (np.square(value.astype(float) - arrays[name]).sum() for name, value in tensors.items())
        metrics["private-distance"] = float(np.sqrt(sum(squares)))
        self._store(instruction).save(tensors, instruction.round, instruction.private_round)
        return self._reply(metrics, len(data.labels))

    def evaluate(self, arrays: Arrays, instruction: Instruction) -> Metrics:
        """Score zero-shot, the global and the personalized model on this site's test part."""
        experiment = self.experiment
        private = self._private_branch(arrays, instruction) if instruction.private_round else None
        shared = self._global_branch(arrays)
        data = experiment.data("test", self._rows("test"), shared.takes_pixels)
        scores = evaluate(data, shared, private)
        share = self.config.share_class_counts
        by_class = (self.simulated if share == "auto" else share) and bool(
            self._node_config.get("share-class-counts", True)
        )
        metrics: Metrics = dict(counts_to_metrics("zero-shot", scores.zero_shot, by_class))
        metrics |= counts_to_metrics("global", scores.global_model, by_class)
        if scores.personalized is not None:
            metrics |= counts_to_metrics("personalized", scores.personalized, by_class)
        return self._reply(metrics, len(data.labels))

    # --- parts ------------------------------------------------------------------------------------------------------

    @cached_property
    def simulated(self) -> bool:
        """Whether this site exists inside a simulation on its user's own machine.

        True in one of Ray's processes, or where the node itself says so; never because a server says so.
        """
        return is_simulated(self._node_config)

    def _own_paths(self, config: RunConfig) -> RunConfig:
        """Read files from where this node says, not from where the server says; in a simulation both are the same."""
        if self.simulated:
            return config
        pretrained = str(self._node_config.get("pretrained", config.pretrained))
        if names_weights(config.pretrained) and "pretrained" not in self._node_config:
            raise ConfigError(
                "This run's backbone comes from a file: start this node with "
                "--node-config 'pretrained=\"/path/to/it\"'."
            )
        own = {"dataset_path": str(self._node_config.get("dataset-path", "")), "pretrained": pretrained}
        return config.model_copy(update=own)

    def _rows(self, split: str) -> npt.NDArray[np.int64]:
        partition = self.experiment.partition(self.sites)
        rows: npt.NDArray[np.int64] = (partition.train if split == "train" else partition.test)[self.index]
        return rows

    def _global_branch(self, arrays: Arrays) -> PeftModule:
        module = self.experiment.new_branch("global")
        load_parameters(module, {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()})
        return module

    def _private_branch(self, arrays: Arrays, instruction: Instruction) -> PeftModule:
        """Give the private branch that the server's message names: one on disk, or the common initial one."""
        module = self.experiment.new_branch("private")
        if instruction.private_round:
            stored = self._store(instruction).load(instruction.private_round)
            load_parameters(module, {name: torch.from_numpy(value) for name, value in stored.items()})
        elif self.config.private_init == "global":
            load_parameters(module, {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()})
        return module

    def _store(self, instruction: Instruction) -> PrivateStore:
        """Open the private store: where the node says, else, in a simulation, where the run says."""
        folder = self._node_config.get("state-dir")
        if not folder and self.simulated:
            folder = self.config.state_dir or _shared(instruction.simulation_dir)
        root = Path(str(folder)).expanduser() if folder else home() / "private"
        return PrivateStore(root, instruction.experiment_id, self.name)

    def _order(self, instruction: Instruction) -> torch.Generator:
        """Seed the order of this visit's batches."""
        seed = derive_seed(self.config.seed, "train", instruction.phase, instruction.round, self.name)
        return torch.Generator().manual_seed(seed)

    def _reply(self, metrics: Mapping[str, Any], num_examples: int) -> Metrics:
        reply = {**metrics, "num-examples": num_examples, "seconds": time.monotonic() - self._started}
        reply["feature-seconds"] = self.experiment.feature_seconds - self._features_before
        if self.simulated:
            reply["worker"] = derive_seed(platform.node(), os.getpid())  # process ids repeat on other machines
        return reply


def is_simulated(node_config: Mapping[str, Any]) -> bool:
    """Tell whether a node exists inside a simulation: see :attr:`Site.simulated`."""
    ray = sys.modules.get("ray")
    return bool(node_config.get("simulation")) or (ray is not None and ray.is_initialized())


def _shared(simulation_dir: str) -> str:
    """Give the folder of a simulation's private branches, which a server on another machine may have named in vain."""
    run = Path(simulation_dir).parent
    if simulation_dir and not run.is_dir():
        raise StateError(
            f"{platform.node()} does not see the run folder {run}: on a Ray cluster choose --out on a disk that all "
            "machines share, at the same path. Private branches are kept there."
        )
    return simulation_dir


def _numpy(module: PeftModule) -> Named:
    return {name: value.cpu().numpy() for name, value in parameters_of(module).items()}
