"""Rounds of a preset in one process: both phases on the tests' in-process Grid, with the time by part and peak memory.

    python benchmarks/rounds.py --preset paper/cifar100-prompt --set dataset-path=/data/cifar100 \
        --set pretrained=/data/vitb16.safetensors
    python benchmarks/rounds.py --preset paper/cifar100-prompt --random-weights --set dataset-path=/data/cifar100

One client after the other, without Flower's transport: what the mathematics costs on this device once images are
encoded. Features are kept under ``FEDPUREL_HOME``, so that only the first call encodes.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

PARTS = ("training", "training_features", "evaluation", "server", "server_features", "start_up", "total")


def random_weights(backbone: str, folder: Path) -> Path:
    """Write a checkpoint of an open_clip model with random weights, the same in every call."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    path = folder / f"{backbone}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(open_clip.create_model(backbone).state_dict(), path)
    return path


def table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Sum the seconds of the rounds by phase and part, as Markdown."""
    rows: dict[str, dict[str, float]] = {}
    for line in lines:
        row = rows.setdefault(f"{line['phase']}", dict.fromkeys(("rounds", *PARTS), 0.0))
        row["rounds"] += 1
        for part in PARTS:
            row[part] += line["seconds"].get(part, 0.0)
    head = ["phase", "rounds", *(f"{part} [s]" for part in PARTS)]
    body = [[phase, *(f"{value:.4g}" for value in row.values())] for phase, row in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *body))


def main() -> None:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="shapes")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--random-weights", action="store_true", help="of the preset's backbone, instead of pretrained")
    options = parser.parse_args()
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", HF_HUB_OFFLINE="1")

    import torch

    import fedpurel_app
    from fedpurel_app.config.presets import load_preset
    from fedpurel_app.core.files import home
    from fedpurel_app.launch.choose import assignments

    values = assignments(options.set)
    if options.random_weights:
        backbone = str({**load_preset(options.preset).values, **values}["backbone"])
        values["pretrained"] = str(random_weights(backbone, home() / "random-weights"))
    with tempfile.TemporaryDirectory() as scratch:
        threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
        run = fedpurel_app.run(values, preset=options.preset, out=Path(scratch) / "run", threads=threads)
        print(table(run.rounds))
        summary = run.summary
    print(", ".join(f"{name} {summary[name]['all']:.1f}" for name in ("zero_shot", "global", "personalized")))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB", end="")
    if torch.cuda.is_available():
        print(f", of {torch.cuda.get_device_name()} {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", end="")
    print(f"; {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
