"""How many runs may go on at a time."""

import shutil

import psutil
import pytest

from fedpurel_app.sweeps import room
from fedpurel_app.sweeps.room import Room, free_gpu_memory
from fedpurel_app.sweeps.workers import Answer

GIB = 2**30


@pytest.fixture
def machine(monkeypatch):
    """A machine of 8 cores whose free memory and GPUs a test sets."""

    class Machine:
        available, gpus, free = 100 * GIB, 0, [40 * GIB]

    monkeypatch.setattr(room, "usable_cores", lambda: 8)
    monkeypatch.setattr(room, "count_gpus", lambda: Machine.gpus)
    monkeypatch.setattr(room, "free_gpu_memory", lambda: Machine.free)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Machine)
    return Machine


def test_as_many_as_cores_have_threads_for(machine):
    assert Room(None, 2).most == 4 and Room(None, 16).most == 1 and Room(3, 1).most == 3
    found = Room(None, 2)
    assert found.is_left(3) and not found.is_left(4)


def test_memory_that_a_run_needed_must_be_free_for_another(machine):
    found = Room(None, 1)
    machine.available = 3 * GIB
    assert found.is_left(1)
    found.learn(Answer("completed", memory=4 * GIB))
    assert not found.is_left(1)
    assert found.is_left(0)  # one alone always may


def test_a_gpu_has_one_run_until_one_has_told_what_it_needs(machine):
    machine.gpus = 2
    found = Room(None, 1)
    assert found.is_left(1) and not found.is_left(2)
    found.learn(Answer("completed", memory=GIB, gpu_memory=10 * GIB))
    machine.free = [30 * GIB, 30 * GIB]
    assert found.is_left(2)
    machine.free = [30 * GIB, 11 * GIB]
    assert found.is_left(2) and not found.is_left(3)  # the fourth goes to the second GPU
    assert not Room(None, 1, use_gpus=False)._gpus


def test_processes_see_one_gpu_each_in_turn(machine, monkeypatch):
    machine.gpus = 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [Room(None, 1).gpu_of(number) for number in (0, 1, 2)] == [
        {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "0"},
    ]  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert Room(None, 1).gpu_of(1) == {"CUDA_VISIBLE_DEVICES": "5"}
    machine.gpus = 1
    assert Room(None, 1).gpu_of(0) == {}


def test_free_memory_is_read_from_the_tool(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 1024\necho 2048\n")
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tool))
    assert free_gpu_memory() == [GIB, 2 * GIB]
    tool.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert free_gpu_memory() == []
