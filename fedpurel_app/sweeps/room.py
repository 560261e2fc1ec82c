"""How many runs may go on at a time: cores, memory, and the memory of GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess

import psutil

from fedpurel_app.core.machine import usable_cores
from fedpurel_app.launch.processes import count_gpus
from fedpurel_app.sweeps.workers import Answer

_UNMEASURED = 2**30  # bytes that a run is thought to need until one has been measured
_SPARE = 1.2  # times what a measured run needed must be free for another one


class Room:
    """Says whether there is room for another run.

    Parameters
    ----------
    most : int or None
        Runs at a time, at most; by default as many as cores have threads for.
    threads : int
        Of each run.
    use_gpus : bool
        Runs go to GPUs, where there are any. Until one has told how much of a GPU's memory it takes, each GPU has one.
    """

    def __init__(self, most: int | None, threads: int, use_gpus: bool = True) -> None:
        self.most = most or max(1, usable_cores() // threads)
        self._gpus = count_gpus() if use_gpus else 0
        self._memory = self._gpu_memory = 0

    def learn(self, answer: Answer) -> None:
        """Take in what a run needed."""
        self._memory, self._gpu_memory = max(self._memory, answer.memory), max(self._gpu_memory, answer.gpu_memory)

    def is_left(self, going: int) -> bool:
        """Tell whether one more may start beside those that go on; one always may."""
        if going == 0:
            return True
        if going >= self.most or psutil.virtual_memory().available < _SPARE * (self._memory or _UNMEASURED):
            return False
        return not self._gpus or self._is_left_on_gpus(going)

    def _is_left_on_gpus(self, going: int) -> bool:
        if not self._gpu_memory:
            return going < self._gpus
        free = free_gpu_memory()
        return bool(free) and free[going % self._gpus % len(free)] > _SPARE * self._gpu_memory

    def gpu_of(self, number: int) -> dict[str, str]:
        """Return what lets a process see one GPU, in turn; empty where there are not several to choose from."""
        if self._gpus < 2:
            return {}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = visible if visible != [""] else [str(index) for index in range(self._gpus)]
        return {"CUDA_VISIBLE_DEVICES": names[number % len(names)]}


def free_gpu_memory() -> list[int]:
    """Return the free memory of every GPU of this machine [bytes]; empty where it cannot be asked for."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return [int(line) * 2**20 for line in told.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
