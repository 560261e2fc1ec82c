"""Cost of a round as the federation grows: seconds and peak memory, in one process.

    python benchmarks/round_overhead.py                      # 20 and 1,000 sites, 40 % sampled
    python benchmarks/round_overhead.py --sites 20 200 2000 --json overhead.json

The real apps run on the tests' in-process Grid, each size in a process of its own: strategy, records, screening,
training, private files and checkpoints, without Flower's transport. Features are small and precomputed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))


def measure(sites: int, rounds: int) -> dict[str, Any]:
    """Run both phases in this process; give medians of the rounds' seconds and the peak memory."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    from tests.support import run_tiny, tiny_features

    def memory() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FEDPUREL_HOME"] = name
        # As much data at each site, whatever their number: 20 images to train on, 20 to test on.
        tiny_features(folder / "features.npz", classes=20, width=64, per_class=sites)
        before, started = memory(), time.perf_counter()
        run = run_tiny(folder, num_sites=sites, global_rounds=rounds, imbalance_factor=1, evaluate_every=rounds)
        seconds = time.perf_counter() - started
        lines = run.rounds()[1:]
        private = sum(path.stat().st_size for path in (run.path / "private").rglob("*.safetensors"))

    def median(phase: str) -> float:
        times = sorted(line["seconds"]["total"] for line in lines if line["phase"] == phase and not line.get("sites"))
        return times[len(times) // 2]

    return {
        "sites": sites,
        "sampled": len(lines[0]["cohort"]),
        "global_round_s": round(median("global"), 4),
        "personal_round_s": round(median("personal"), 4),
        "evaluation_s": round(lines[-1]["seconds"]["evaluation"], 4),
        "per_sampled_site_ms": round(1000 * median("global") / len(lines[0]["cohort"]), 3),
        "run_s": round(seconds, 2),
        "peak_mib": round(memory(), 1),
        "grown_mib": round(memory() - before, 1),
        "private_mib_on_disk": round(private / 2**20, 2),
    }


def main() -> None:
    """Measure each size in a fresh process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[20, 1000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.rounds)))
        return
    rows = []
    for sites in options.sites:
        command = [sys.executable, __file__, "--one", str(sites), "--rounds", str(options.rounds)]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        rows.append(json.loads(result.stdout.splitlines()[-1]))
    names = list(rows[0])
    print(f"| {' | '.join(names)} |\n|{'---:|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(str(row[name]) for name in names)} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
