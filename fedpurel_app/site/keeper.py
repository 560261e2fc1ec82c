"""What a site keeps between messages, and the one run that it keeps it for."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from logging import getLogger
from pathlib import Path

from fedpurel_app.config import NodeConfig, RunConfig, require_few_steps
from fedpurel_app.core.errors import PolicyError, RunError, StateError, UnusableBranchError
from fedpurel_app.core.layout import Layout
from fedpurel_app.core.records import Arrays, Instruction, is_finite
from fedpurel_app.site.data_paths import private_folder
from fedpurel_app.site.private_quota import Quota
from fedpurel_app.site.private_store import PrivateStore
from fedpurel_app.site.run_fence import Attempt, Work
from fedpurel_app.site.sealing import read_key
from fedpurel_app.site.state import PrivateState

logger = getLogger("flwr.fedpurel.client")


class Keeper:
    """Opens, reads and writes a site's private state, and refuses messages of other runs.

    Parameters
    ----------
    config : RunConfig
    node : NodeConfig
    site : str
        Its name.
    simulated : bool
    has_private_part : bool
        Whether the method leaves anything with a site.

    Attributes
    ----------
    restarted : bool
        Whether the private state was lost, and begun afresh.
    """

    def __init__(self, config: RunConfig, node: NodeConfig, site: str, simulated: bool, has_private_part: bool) -> None:
        self.config, self.node, self.site, self.simulated = config, node, site, simulated
        self.has_private_part, self.restarted = has_private_part, False
        self._state: PrivateState | None = None  # once it is read

    def begin(
        self,
        work: Work,
        arrays: Arrays,
        instruction: Instruction,
        images: Callable[[], int] = int,
        brief: Arrays | None = None,
        layout: Layout | None = None,
    ) -> None:
        """Refuse what this site does not work for.

        In a simulation that is a second run of the experiment, where there is a private part to protect. A real site
        also answers each question once, and bounds what it is asked for, whatever the method.

        Parameters
        ----------
        work : Work
        arrays : mapping of str to ndarray
            The shared parameters.
        instruction : Instruction
        images : callable
            Counts those to be trained on; not called for what is refused before.
        brief : mapping of str to ndarray, optional
            What came beside the shared parameters.
        layout : mapping of str to ndarray of int64, optional
            How they are laid out.
        """
        config = self.config
        if self.simulated:
            if self.has_private_part:
                self.open(instruction).admit(bind=True)
            return
        instruction.require_work(self.node.max_rounds)
        self._require_attempt(instruction)
        if work == "train":
            require_few_steps(config, self.node, images())
        settings = config.model_dump(by_alias=True)
        names = [config.algorithm, config.peft, settings["shares"]]
        method = ", ".join(names if config.balancer == "none" else [*names, config.balancer])
        asked = _digest(arrays, brief or {}, layout or {}, instruction, config)
        self.open(instruction).begin(work, instruction.round, asked, method)

    def meet(self, instruction: Instruction) -> None:
        """Refuse a run that is another than the one that this site serves, when it is first met.

        A first attempt binds this site with its first work only: one that dies before may be begun anew.
        """
        if self.has_private_part or not self.simulated:
            self._require_attempt(instruction)
            self.open(instruction).admit(bind=instruction.attempt > 1)

    def state(self, instruction: Instruction) -> PrivateState:
        """Return what this site keeps; empty before its first visit, or where it is lost and this node goes on so."""
        if self._state is None:
            self._state = PrivateState()
            if instruction.private_round:
                try:
                    self._state = PrivateState.of(self.open(instruction).take(instruction.private_round))
                except UnusableBranchError as error:
                    if self.node.private_fallback != "fresh":
                        raise
                    logger.warning('%s Here, private-fallback = "fresh": this site begins a fresh one.', error)
                    self.restarted = True
        return self._state

    def keep(self, state: PrivateState, instruction: Instruction) -> None:
        """Write this site's private state, unless training diverged."""
        tensors = state.tensors()
        if not is_finite(tensors):
            raise RunError("the private part diverged (NaN or Inf) and was not kept: lower the learning rates.")
        self.open(instruction).save(tensors, instruction.round, instruction.private_round)

    def _require_attempt(self, instruction: Instruction) -> None:
        if not self.simulated and instruction.attempt > self.node.max_attempts:
            raise PolicyError(f"attempt {instruction.attempt}: this site allows at most {self.node.max_attempts}.")

    def open(self, instruction: Instruction) -> PrivateStore:
        """Open the private store: where the node says, else, in a simulation, where the run says."""
        of_run = ""
        if self.simulated and not self.node.state_dir:
            of_run = self.config.state_dir or _shared(instruction.simulation_dir)
        root = private_folder(self.node, of_run)
        key = read_key(Path(self.node.key_file)) if self.node.key_file else None
        attempt = Attempt(instruction.attempt, instruction.token, instruction.secret)
        node = self.node
        bounds = (node.max_experiments, node.max_private_bytes, node.max_evaluations)
        quota = None if self.simulated else Quota(*bounds)
        return PrivateStore(root, instruction.experiment_id, self.site, attempt, key, quota)


def _shared(simulation_dir: str) -> str:
    """Return the folder of a simulation's private branches; raise StateError if the run folder is not visible here."""
    run = Path(simulation_dir).parent
    if simulation_dir and not run.is_dir():
        raise StateError(
            f"{platform.node()} does not see the run folder {run}: on a Ray cluster choose --out on a disk that all "
            "machines share, at the same path. Private branches are kept there."
        )
    return simulation_dir


def _digest(arrays: Arrays, brief: Arrays, layout: Layout, instruction: Instruction, config: RunConfig) -> str:
    """Return the SHA-256 of all that a message asks of a site."""
    digest = hashlib.sha256(f"{instruction!r}|{config!r}".encode())
    for mark, part in ((b"", arrays), (b"||", brief), (b"|||", layout)):
        digest.update(mark if part else b"")  # no name is empty
        for name, value in sorted(part.items()):
            digest.update(f"|{name}|{value.dtype.str}|{value.shape}|".encode() + value.tobytes())
    return digest.hexdigest()
