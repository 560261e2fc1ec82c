"""What is said and written down before the first round."""

from __future__ import annotations

from logging import INFO, WARNING, getLogger
from pathlib import Path

import numpy as np
import torch

from fedpurel_app.config import RunConfig
from fedpurel_app.core.progress import Event, tell
from fedpurel_app.data.dealing.partition import Ints
from fedpurel_app.experiment import Experiment
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.settings import data_in_words
from fedpurel_app.strategies import FedPuReL

logger = getLogger("flwr.fedpurel")


def announce(experiment: Experiment, strategy: FedPuReL, path: Path, size: int, resumed: bool) -> None:
    """Log what will happen.

    Parameters
    ----------
    experiment : Experiment
    strategy : FedPuReL
        Which knows the sites.
    path : Path
        The run folder.
    size : int
        Bytes of what sites share.
    resumed : bool
    """
    config, sites = experiment.config, strategy.roster.present
    cohort = len(strategy.roster.draw(config.seed, 1, config.fraction_train))
    data = data_in_words(config.model_dump(by_alias=True))
    kit = experiment.kit
    title = kit.method.title if config.balancer == "none" else f"{kit.method.title} with {kit.balancer.title}"
    logger.log(INFO, "%s, %s on %s (%s); %d sites, %d per round; seed %d", title, config.peft, config.dataset, data,
               len(sites), cohort, config.seed)  # fmt: skip
    if kit.method.trains:
        own = sum(value.nbytes for value in kit.personal_arrays().values())
        told = f"{own / 1000:.1f} KB per personal round of what turns" if own else "nothing of"
        logger.log(INFO, "a site sends %.1f KB per global round and %s its private branch", size / 1000, told)
    if config.backbone == "demo" and config.dataset not in ("shapes", "features", "sites"):
        logger.log(WARNING, "the demo CLIP knows the words of shapes alone: on %s its accuracy means nothing",
                   config.dataset)  # fmt: skip
    if short := experiment.federation.short_classes:
        logger.log(INFO, "%d classes have fewer images than the settings ask for, and give all", short)
    tell(logger, Event.RUN_FOLDER, f"run folder: {path}", str(path))
    if sum((counts := experiment.images.to_encode()).values()):
        parts = " and ".join(f"{count} {name}" for name, count in counts.items())
        tell(logger, Event.TO_ENCODE, f"{parts} images will be encoded, once: later runs find them")
    if resumed:
        logger.log(INFO, "resumed after round %d of %d, attempt %d", strategy.round_offset, strategy.schedule.total,
                   strategy.attempt)  # fmt: skip
    if config.privacy != "none":
        logger.log(INFO, "privacy of global rounds: %s, %s", config.privacy, strategy.privacy_outlook())
    described = [one for one in strategy.roster.descriptions.values() if one is not None]
    if config.validation_share and not any(one.validation_examples for one in described):
        logger.log(WARNING, "no site tells of a validation part (a class is cut where a site has five images of it, "
                   "and a site may keep its scores): no best model will be chosen")  # fmt: skip
    few = len(sites) < config.suggested_sites and not (config.num_sites or experiment.federation.site_names)
    hint = federation_hint(config, strategy, config.suggested_sites if few else len(sites))
    idle_gpu = torch.cuda.is_available() and config.device != "cpu" and all(d.device == "cpu" for d in described)
    if hint and few:
        logger.log(WARNING, "%d sites are connected; this setting is made for %d. %s", len(sites),
                   config.suggested_sites, hint)  # fmt: skip
    elif hint and idle_gpu:
        logger.log(WARNING, "there is a GPU here that the sites do not use. %s", hint)


def federation_hint(config: RunConfig, strategy: FedPuReL, sites: int) -> str:
    """Return the command that makes a simulation with enough sites; nothing where sites have data of their own."""
    described = [one for one in strategy.roster.descriptions.values() if one is not None]
    if config.dataset == "sites" or any(not one.partitions for one in described):
        return ""
    return simulation_command(sites)


def write_partition(experiment: Experiment, strategy: FedPuReL, folder: RunFolder) -> None:
    """Record which rows every site has, where the server can know."""
    parts = {one.partitions for one in strategy.roster.descriptions.values() if one is not None}
    if len(parts) != 1 or not (count := parts.pop()):
        return
    split, labels = experiment.federation.partition(count), experiment.federation.source.train.labels
    folder.write_json(
        "partition.json",
        {
            "sha256": split.sha256,
            "train_counts": experiment.federation.train_counts.tolist(),
            "site_names": [experiment.federation.name_of(index, count) for index in range(count)],
            "train_by_class": [_counts(labels[rows]) for rows in split.train],
            "train": [rows.tolist() for rows in split.train],
            "test": [rows.tolist() for rows in split.test],
            **({"validation": [rows.tolist() for rows in split.validation]} if split.validation else {}),
        },
    )


def _counts(labels: Ints) -> dict[str, int]:
    """Count labels, those that are there: most sites have few of many classes."""
    return {str(label): int(count) for label, count in zip(*np.unique(labels, return_counts=True), strict=True)}


def simulation_command(sites: int) -> str:
    """Return the command that makes a simulation with enough sites, with the GPU where there is one."""
    gpus = 0.25 if torch.cuda.is_available() else 0
    return (
        f"In a simulation: flwr run . --stream --federation-config 'num-supernodes={sites} "
        f"client-resources-num-cpus=1 client-resources-num-gpus={gpus:g}'"
    )
