"""The bits of small runs: what they are of, how they are digested, and ``python -m tests.golden`` to record them anew.

Every algorithm and family, both schedules, a run that was cut and resumed, sites that keep a part, privacy and another
aggregate. Recording anew is right only together with a correction that is meant to change bits, and that says so.
Sites answer with counts of right answers alone, as clients of others may, and of the scores those are digested that
follow from counts: what an evaluation tells beside them came later, and its bits are tested in ``test_details.py``.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from safetensors.numpy import load

from fedpurel_app.core.details import NAMES
from fedpurel_app.data.shapes import rendered
from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import private_files, run_tiny, timeless

STORE = Path(__file__).with_name("golden.json")
_IMAGES = {"dataset": "shapes", "dataset_path": "", "max_per_class": 4, "imbalance_factor": 4}
_ROUNDS = {"num_sites": 3, "global_rounds": 2, "evaluate_every": 1, "fraction_train": 0.7}
_ALGORITHMS = ("fedpurel", "fedavg", "fedavg-kl", "prograd")
_FAMILIES = ("prompt", "adapter", "text-residual", "lora", "visual-prompt")
_LATER = {*NAMES, "worst_class", "worst_site"}
CUT = "resumed in the middle"  # the one case that is run in two parts

CASES: dict[str, dict[str, Any]] = {
    **{f"{a}, {f}": {**_IMAGES, "algorithm": a, "peft": f} for a in _ALGORITHMS for f in _FAMILIES},
    "interleaved": {"schedule": "interleaved", "full_first_round": True},
    CUT: {"global_rounds": 3, "experiment_id": "e"},
    "sites keep B": {**_IMAGES, "peft": "lora", "shares": "lora-a"},
    "sites keep B, no private branch": {**_IMAGES, "peft": "lora", "shares": "lora-a", "algorithm": "fedavg"},
    "privacy at the server": {"privacy": "server-fixed", "clipping_norm": 0.05},
    "privacy at the sites": {"privacy": "client-fixed", "clipping_norm": 0.05},
    "median": {"aggregation": "median"},
    "as the reference code": {
        "peft": "adapter",
        "private_weight": 0.0,
        "private_init": "independent",
        "align_loss": "kl",
        "projection_scope": "tensor",
    },
    "several epochs": {"local_epochs": 2, "batch_size": 4, "momentum": 0.5, "weight_decay": 0.01},
}


def play(name: str, folder: Path) -> RunFolder:
    """Run a case."""
    changes = {**_ROUNDS, **CASES[name]}
    noise, threads = np.random.get_state(), torch.get_num_threads()  # Flower's privacy draws from numpy's generator
    np.random.seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered, "SHAPES_TEST", 2)
        patch.setenv("OMP_NUM_THREADS", "1")  # whose number decides the last bits; what a site gets in a simulation
        try:
            return _in_two_parts(folder, changes) if name == CUT else _run(folder, changes)
        finally:
            np.random.set_state(noise)
            torch.set_num_threads(threads)


def _counts_alone(message: Message, reply: Message) -> Message:
    """Take from an evaluation what it tells beside counts."""
    if message.metadata.message_type == "evaluate" and reply.has_content():
        told = reply.content.metric_records["metrics"]
        for name in [name for name in told if "/" in name and not name.endswith(("/correct", "/total"))]:
            del told[name]
    return reply


def _run(folder: Path, changes: dict[str, Any], spy: Any = _counts_alone) -> RunFolder:
    return run_tiny(folder, **changes, grid={"spy": spy})


def _in_two_parts(folder: Path, changes: dict[str, Any]) -> RunFolder:
    def stop(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train.personalize" and message.content["config"]["round"] == 5:
            raise KeyboardInterrupt
        return _counts_alone(message, reply)

    try:
        _run(folder, changes, stop)
    except KeyboardInterrupt:
        return _run(folder, {**changes, "resume_from": str(folder / "run"), "out": ""})
    raise AssertionError("the run was to be cut in its fifth round")


def digests(folder: RunFolder) -> dict[str, Any]:
    """Digest a run: SHA-256 of what sites share, what they keep, and the rounds; and sums, for other machines."""
    shared = load((folder.path / "checkpoint.safetensors").read_bytes())
    files = {name: load(content) for name, content in private_files(folder).items()}
    private = {f"{file}/{name}": value for file, tensors in files.items() for name, value in tensors.items()}
    lines = [json.dumps(_without(line, _LATER), sort_keys=True) for line in timeless(folder)]
    return {
        "shared": _sha256(shared),
        "private": _sha256(private),
        "rounds": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        "sums": [_size(shared), _size(private)],
    }


def _without(value: Any, names: set[str]) -> Any:
    """Leave keys out of a structure, however deep."""
    if not isinstance(value, dict):
        return value
    return {key: _without(part, names) for key, part in value.items() if key not in names}


def _sha256(arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        digest.update(f"{name}|{value.dtype}|{value.shape}|".encode() + value.tobytes())
    return digest.hexdigest()


def _size(arrays: Mapping[str, Any]) -> float:
    return float(sum(np.abs(value.astype(float)).sum() for _, value in sorted(arrays.items())))


def machine() -> dict[str, str]:
    """Return what the bits depend on beside the code."""
    return {
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    """Record the cases that are named on the command line, or all."""
    chosen = sys.argv[1:] or list(CASES)
    known = json.loads(STORE.read_text())["runs"] if STORE.exists() and sys.argv[1:] else {}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(chosen):
            known[name] = digests(play(name, Path(folder) / str(number)))
    content = {"machine": machine(), "runs": {name: known[name] for name in CASES if name in known}}
    STORE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
