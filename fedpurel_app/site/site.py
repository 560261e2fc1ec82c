"""One site: its data, its private branch, and what it answers to each kind of message."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from logging import getLogger
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from fedpurel_app.algorithms.base import Facts, Memory, Models, Visit
from fedpurel_app.config import (
    RunConfig,
    load_config,
    load_node_config,
    require_clipping,
    require_served,
)
from fedpurel_app.core import disk_memo
from fedpurel_app.core.errors import PolicyError, RunError
from fedpurel_app.core.layout import Layout
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.records import (
    NUM_EXAMPLES,
    RESTARTED,
    WITHHELD,
    WORKER,
    Arrays,
    Description,
    Instruction,
    is_finite,
)
from fedpurel_app.core.seeding import derive_seed
from fedpurel_app.core.site_scores import SiteScores
from fedpurel_app.data.dealing.partition import PartName
from fedpurel_app.data.sources.inspection import meet
from fedpurel_app.experiment import Experiment
from fedpurel_app.models.peft.base import PeftModule, are_alike, parameters_of, to_tensors
from fedpurel_app.models.peft.pareto import family_part
from fedpurel_app.site.data_paths import cache_folder, with_own_paths
from fedpurel_app.site.disclosure import Disclosure, shares_class_counts
from fedpurel_app.site.keeper import Keeper
from fedpurel_app.site.site_data import SiteData
from fedpurel_app.site.state import Named
from fedpurel_app.training.inputs import TrainingData
from fedpurel_app.training.local import begin, train

logger = getLogger("flwr.fedpurel.client")

Metrics = dict[str, Any]


@lru_cache(maxsize=1)
def _experiment(config: RunConfig, cache: Path, own: bool, together: bool, site: str) -> Experiment:
    """Keep frozen and shared things for the life of the process; sites that share a process share them."""
    return Experiment(config, cache, own, together=together, site=site)


class Site:
    """A site as one message meets it.

    Parameters
    ----------
    run_config : mapping
        Settings of the run.
    node_config : mapping
        Settings of this node: see :class:`~fedpurel_app.config.NodeConfig`.

    Raises
    ------
    ConfigError
        When the settings are wrong.
    PolicyError
        When the run asks for what this node refuses.
    DataError
        When the node has no part in the data.
    """

    _brief: Mapping[str, torch.Tensor] = MappingProxyType({})  # what the method's part at the server sent
    _layout: Layout = MappingProxyType({})  # how the shared parameters are laid out

    def __init__(self, run_config: Mapping[str, Any], node_config: Mapping[str, Any]) -> None:
        # The number of threads decides the last bits of a result. Ray sets OMP_NUM_THREADS to what a site gets.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
        self._started = time.monotonic()
        self.node = load_node_config(node_config)
        self.simulated = is_simulated(node_config)
        asked = load_config(run_config)
        if not self.simulated:
            require_served(asked, self.node)
        self.config = with_own_paths(asked, self.node, self.simulated)
        by_class = shares_class_counts(self.node, asked.share_class_counts, self.simulated)
        self.discloses = Disclosure(self.node, self.simulated, by_class)
        # A site with data of its own is the only one that its data are dealt out to.
        self.index, self.sites = (0, 1) if self._own else (self.node.partition_id, self.node.num_partitions)
        self.sites = self.sites if self._own else self.config.num_sites or self.sites
        cache = cache_folder(self.node, self.simulated)
        disk_memo.keep_in(cache)
        own_name = (self.node.site or "") if self._own else ""
        self.experiment = one = _experiment(self.config, cache, self._own, self.simulated, own_name)
        self.federation, self.kit, self.images = one.federation, one.kit, one.images
        self.sites = len(self.federation.site_names) or self.sites
        self.name = self.node.site or self.federation.name_of(self.index, self.sites)
        if self._own and (why := self.kit.unfit_for_own_data()):
            raise PolicyError(why)
        keeps = self.kit.method.personal_rounds or self.kit.keeps_state
        self.keeper = Keeper(self.config, self.node, self.name, self.simulated, keeps)
        self.data = SiteData(one, self.index, self.sites)
        self._features_before = self.images.seconds

    # --- messages ---------------------------------------------------------------------------------------------------

    def describe(self, instruction: Instruction | None = None) -> Description:
        """Say who this site is; ``num_examples`` is 0 for a node beyond the number of sites asked for."""
        if instruction is not None:
            self.keeper.meet(instruction)
        spare = self.index >= self.sites
        if not self.simulated:  # a simulation's server meets the same data
            meet(self.federation.source)
        count, test, held = (0 if spare else len(self.data.rows(part)) for part in ("train", "test", "validation"))
        # Who knows the data set can count what of it a site has; of a site with data of its own, itself decides.
        tells = self.discloses.by_class if self._own else self.kit.method.needs_counts and self.node.share_class_counts
        counts = self.data.class_counts() if tells and not spare else []
        test, held = (0, 0) if self.discloses.tells_no_scores else (test, held)
        edge = self.node.edge if self.kit.options.get("edge-assignment") == "node" else ""
        parts = 0 if self._own else self.sites
        return Description(self.name, count, parts, self.kit.device.type, counts, test, held, edge)

    def require_clipping(self, norms: Sequence[object]) -> None:
        """Raise PolicyError unless a message names the one norm that this run may ask a site to clip to.

        Parameters
        ----------
        norms : sequence
            What the message names; of no use where the site itself does not clip by what the server says.
        """
        if not self.simulated and self.config.privacy in ("client-fixed", "client-adaptive"):
            require_clipping(self.config, self.node, norms[0] if len(norms) == 1 else None)

    def train(
        self,
        phase: Phase,
        arrays: Arrays,
        instruction: Instruction,
        brief: Arrays | None = None,
        layout: Layout | None = None,
    ) -> tuple[Named, Metrics]:
        """Do a phase's visit on this site's data; return what is sent, in personal rounds of most methods nothing.

        Parameters
        ----------
        phase : Phase
        arrays : mapping of str to ndarray
            The shared parameters.
        instruction : Instruction
        brief : mapping of str to ndarray, optional
            What the method's part at the server sent beside them.
        layout : mapping of str to ndarray of int64, optional
            How they are laid out; as at first where nothing is said of it.

        Raises
        ------
        RunError
            When the method has no such rounds, or what it trained here diverged.
        """
        visit = self.kit.algorithm.visits.get(phase)
        if visit is None:
            raise RunError(f'algorithm = "{self.kit.method.name}" has no {phase} rounds.')
        self.keeper.begin("train", arrays, instruction, lambda: len(self.data.rows("train")), brief, layout)
        self._layout = layout or {}
        self._brief = {name: value.to(self.kit.device) for name, value in to_tensors(brief or {}).items()}
        if phase is Phase.GLOBAL and not self.kit.keeps_state:
            # Whatever branch a server names: what is not read here cannot fail here, nor be told of by a shared log.
            instruction = replace(instruction, private_round=0)
        return (self._train_shared if phase is Phase.GLOBAL else self._train_private)(visit, arrays, instruction)

    def _train_shared(self, visit: Visit, arrays: Arrays, instruction: Instruction) -> tuple[Named, Metrics]:
        """Train the shared module; return what of it is sent."""
        module = self._shared_module(arrays, instruction)
        data = self.data.training(module, visit, module)
        facts = self._facts(Phase.GLOBAL, instruction)
        memory = self._memory(module, instruction, facts)
        metrics = self._visit(module, data, Phase.GLOBAL, instruction, facts, memory)
        sent, kept = self.kit.split(module)
        state = replace(self.keeper.state(instruction), kept=kept, memory=_numpy(memory))
        if (codec := self.kit.codec) is not None:
            sent, unsent = codec.shorten(sent, arrays, instruction.round, state.unsent)
            state = replace(state, unsent=unsent)
        if self.kit.keeps_state:
            self.keeper.keep(state, instruction)
        told = self.discloses.training(metrics, is_private=self.kit.algorithm.keeps_secrets)
        return sent, self._reply({**told, NUM_EXAMPLES: len(data.labels)})

    def _train_private(self, visit: Visit, arrays: Arrays, instruction: Instruction) -> tuple[Named, Metrics]:
        """Train this site's private module beside the frozen global one; keep what of it the method does not send."""
        shared = self._shared_module(arrays, instruction)
        private = self._private_module(shared, arrays, instruction)
        data = self.data.training(private, visit, shared)
        start = parameters_of(shared) if are_alike(family_part(private), shared) else None
        facts = self._facts(Phase.PERSONAL, instruction)
        memory = self._memory(shared, instruction, facts)
        whole = family_part(private) is private  # else its parameters have other names
        metrics = self._visit(private, data, Phase.PERSONAL, instruction, facts, memory, start if whole else None)
        sent, kept = self.kit.split_private(private)
        if start is not None:
            own = _numpy(parameters_of(family_part(private)))
            squares = (np.square(value.astype(float) - start[name].cpu().numpy()).sum() for name, value in own.items())
            metrics["private-distance"] = float(np.sqrt(sum(squares)))
        if not is_finite(sent | kept):
            if self.simulated:
                raise RunError("the private part diverged (NaN or Inf) and was not kept: lower the learning rates.")
            # An error would tell the server something of the branch, whose message it was that made it diverge.
            logger.warning("Training the private branch diverged (NaN or Inf): this visit is undone.")
            private = self._private_module(shared, arrays, instruction)
            memory = self._memory(shared, instruction, facts)
            begin(private, data, visit, self.kit.options, facts, memory)
            sent, kept = self.kit.split_private(private)
        memory |= self.data.chosen(self.kit.models(shared, private)) | to_tensors(self._own_layout(instruction))
        state = replace(self.keeper.state(instruction), branch=kept, memory=_numpy(memory))
        self.keeper.keep(state, instruction)
        told = self.discloses.training(metrics, is_private=True)
        return sent, self._reply({**told, NUM_EXAMPLES: len(data.labels)})

    def evaluate(self, arrays: Arrays, instruction: Instruction, layout: Layout | None = None) -> Metrics:
        """Score zero-shot, the global and the personalized model on this site's test and validation parts."""
        self.keeper.begin("evaluate", arrays, instruction, layout=layout)
        self._layout = layout or {}
        if self.discloses.tells_no_scores:
            return self._reply(self.discloses.scores(None))
        models, is_own = self._models(arrays, instruction)
        score, is_private = self._scorer(models, is_own)
        tested = score("test")
        told = self.discloses.scores(tested, is_private)
        is_last = instruction.round == sum(self.config.total_rounds)
        if WITHHELD not in told and is_own and is_last and self.kit.algorithm.front is not None:
            front = self.data.front(models, everywhere=self.simulated)
            told |= self.discloses.front(front, tested.counts["global"].total)
        if WITHHELD not in told and len(self.data.rows("validation")):
            told |= self.discloses.validation(score("validation"), is_private)
        return self._reply(told)

    def scores(self, arrays: Arrays, instruction: Instruction, layout: Layout | None = None) -> SiteScores:
        """Score the same models on the test part, for the site's own eyes: nothing is withheld, and nothing booked."""
        self._layout = layout or {}
        return self._scorer(*self._models(arrays, instruction))[0]("test")

    # --- parts ------------------------------------------------------------------------------------------------------

    @property
    def _own(self) -> bool:
        """Whether the data are this site's own, not its part of a data set that all sites hold."""
        return not self.node.has_part

    def _facts(self, phase: Phase, instruction: Instruction) -> Facts:
        """Return what the method may know in a visit."""
        return self.data.facts(self._brief, self.config.progress(phase, instruction.round))

    def _memory(self, shared: PeftModule, instruction: Instruction, facts: Facts) -> Memory:
        """Return what this site remembers of the method, to be changed in a visit."""
        return self.kit.memory(shared, self.keeper.state(instruction).memory, facts)

    def _visit(
        self,
        module: PeftModule,
        data: TrainingData,
        phase: Phase,
        instruction: Instruction,
        facts: Facts,
        memory: Memory,
        anchor: Mapping[str, torch.Tensor] | None = None,
    ) -> Metrics:
        visit = self.kit.algorithm.visits[phase]
        seed = derive_seed(self.config.seed, "train", phase.value, instruction.round, self.name)
        order = torch.Generator().manual_seed(seed)  # of the batches
        sgd, options = self.kit.sgd(phase), self.kit.options
        return train(module, data, visit, sgd, order, options, facts, anchor, memory)

    def _shared_module(self, arrays: Arrays, instruction: Instruction) -> PeftModule:
        """Return the module of global rounds: what the server sent, with what this site keeps of it to itself."""
        return self.kit.shared_module(arrays, self.keeper.state(instruction).kept, self._layout)

    def _private_module(self, shared: PeftModule, arrays: Arrays, instruction: Instruction) -> PeftModule:
        """Return the private module that the server's message names: one on disk, or the common initial one."""
        start = shared if self.config.private_init == "global" else None
        layout = self._own_layout(instruction)
        return self.kit.private_module(arrays, self.keeper.state(instruction).branch, start, layout)

    def _own_layout(self, instruction: Instruction) -> Layout:
        """Return how the private module is laid out, for good: as the shared one was when its first visit began."""
        state = self.keeper.state(instruction)
        return self.kit.laid_out(state.memory if state.branch else self._layout)

    def _models(self, arrays: Arrays, instruction: Instruction) -> tuple[Models, bool]:
        """Return this site's models, and whether it has one of its own."""
        algorithm, shared = self.kit.algorithm, self._shared_module(arrays, instruction)
        state = self.keeper.state(instruction)
        # What nobody trained here is no model to score: without it, this site has the global model alone.
        private = self._private_module(shared, arrays, instruction) if state.branch else None
        is_own = bool(state.branch if algorithm.has_personal_rounds else (state.kept or state.memory))
        return self.kit.models(shared, private, state.memory), is_own

    def _scorer(self, models: Models, is_own: bool) -> tuple[Callable[[PartName], SiteScores], bool]:
        """Return what scores this site's models on a part, and whether the global one holds parts that it keeps."""
        is_private = not self.kit.algorithm.is_known(models.shared, self.kit.options)
        return partial(self.data.scores, models=models, is_own=is_own), is_private

    def _reply(self, metrics: Mapping[str, Any]) -> Metrics:
        encoding = self.images.seconds - self._features_before
        reply = {**metrics, **self.discloses.times(time.monotonic() - self._started, encoding)}
        if self.keeper.restarted:
            reply[RESTARTED] = 1
        if self.simulated:
            reply[WORKER] = derive_seed(platform.node(), os.getpid())  # process ids repeat on other machines
        return reply


def is_simulated(node_config: Mapping[str, Any]) -> bool:
    """Tell whether a node exists inside a simulation on its user's own machine.

    True in one of Ray's processes, or where the node itself says so; never because a server says so.
    """
    ray = sys.modules.get("ray")
    return bool(node_config.get("simulation")) or (ray is not None and ray.is_initialized())


def _numpy(tensors: Mapping[str, torch.Tensor]) -> Named:
    return {name: value.cpu().numpy() for name, value in tensors.items()}
