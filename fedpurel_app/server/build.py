"""From settings to the strategy that runs them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from fedpurel_app.algorithms.unfit import makes_fingerprints
from fedpurel_app.config import RunConfig
from fedpurel_app.core.records import Arrays
from fedpurel_app.experiment import Experiment
from fedpurel_app.model_kit import ModelKit
from fedpurel_app.server.probes import behaviour
from fedpurel_app.server.text_tower import TextTower
from fedpurel_app.strategies import Aggregation, FedPuReL, Schedule
from fedpurel_app.strategies.parts import Part, load_part
from fedpurel_app.strategies.parts.behaviour_clusters import BehaviourClusters
from fedpurel_app.strategies.parts.peers import Fingerprints, Learned
from fedpurel_app.strategies.parts.several import chained
from fedpurel_app.strategies.parts.text_split import TextSplit
from fedpurel_app.strategies.parts.trust import Trust


def build_strategy(
    config: RunConfig,
    experiment: Experiment,
    private_dir: Path,
    state: Mapping[str, Any] | None,
    part_state: Arrays | None = None,
) -> FedPuReL:
    """Make the strategy of a run.

    Parameters
    ----------
    config : RunConfig
    experiment : Experiment
    private_dir : Path
        Where simulated sites keep their private state.
    state : mapping or None
        Of the run to resume.
    part_state : mapping of str to ndarray, optional
        Of the method's part in it.
    """
    kit = experiment.kit
    aggregation = Aggregation(
        config.aggregation,
        config.trim_share,
        config.privacy,
        config.clipping_norm,
        config.noise_multiplier,
        config.delta,
    )
    strategy = FedPuReL(
        Schedule(*config.total_rounds, config.schedule if kit.algorithm.visits else "evaluation"),
        aggregation.strategy(),
        required_mod=config.privacy if aggregation.needs_mod else "",
        fraction_train=config.fraction_train,
        seed=config.seed,
        full_first_round=config.full_first_round,
        min_replies=config.min_replies,
        max_failed_rounds=config.max_failed_rounds,
        keeps_state=kit.keeps_state,
        codec=kit.codec,
        part=_part(config, kit),
        personal_names=kit.sent_in_personal_rounds,
        personal_inner=aggregation.strategy() if kit.sent_in_personal_rounds else None,
        purifies=False,  # what this app's clients do, its settings say
        evaluate_every=config.evaluate_every,
        num_sites=len(experiment.federation.site_names) or config.num_sites,
        num_classes=len(experiment.federation.source.class_names),
        experiment_id=config.experiment_id or f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}",
        simulation_dir=str(private_dir),
    )
    if state is not None:
        strategy.restore(state)
        if strategy.part is not None:
            strategy.part.restore(part_state or {})
    return strategy


def _part(config: RunConfig, kit: ModelKit) -> Part | None:
    """Make what the server does beside averaging: the method's, and what the settings name."""
    sgd = kit.shared_sgd
    own = load_part(kit.part, kit.part_options, sgd)
    found: list[Part | None] = [own]
    if kit.settings["split"] == "text":
        found.append(TextSplit(kit.options, sgd, TextTower(kit)))
    layout = dict if own is None else own.layout  # as the round's replies have it: parts are asked for weights first
    behave = cache(partial(behaviour, kit, layout))
    if config.trusts:
        found.append(Trust({"trust-tolerance": config.trust_tolerance}, sgd, behave()))
    if kit.options.get("edge-rounds", 1) > 1:
        found.append(BehaviourClusters(kit.options, sgd, behave()))
    if "task-embedding" in kit.options and kit.sent_in_personal_rounds:
        prints = makes_fingerprints(kit.settings)
        peers = Fingerprints(kit.part_options, sgd, behave()) if prints else Learned(kit.options, sgd)
        found.insert(0, peers)  # before a part that lays out the parameters anew: replies are laid out as before
    return chained(found)
