"""Cost of a run as it grows: sites, classes, LoRA rank. Tables, and one picture.

    python benchmarks/scale.py                                          # all three sweeps, some minutes
    python benchmarks/scale.py --sites 20 1000 --classes --ranks        # sites alone
    python benchmarks/scale.py --json scale.json --plot docs/images/scale.png

The real apps run both phases on the tests' in-process Grid, every size in a process of its own with one thread:
strategy, records, screening, training, private files and checkpoints, without Flower's transport. Seconds are those of
the processor, so that other work on the machine does not count; waiting for the disk does not count either.

Sites: text residual on small precomputed features, 20 images to train on and 20 to test on at each site, whatever their
number; a tenth of them (at least 8) are drawn for a round. Classes and ranks: the demo CLIP on 1,000 random images, 4
sites, all drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

Row = dict[str, Any]
IMAGES, SITES = 1000, 4  # of the sweeps over classes and ranks
SWEEPS = {"sites": ("text-residual",), "classes": ("prompt", "text-residual"), "ranks": ("lora",)}


def settings(sweep: str, peft: str, size: int, folder: Path) -> dict[str, Any]:
    """Make the data of one point of a sweep, and give what differs from the default run."""
    if sweep == "sites":
        from benchmarks.synthetic import tiny_features

        data = tiny_features(folder / "features.npz", classes=20, width=64, per_class=size)
        return {"dataset": "features", "dataset-path": str(data), "peft": peft, "num-sites": size,
                "fraction-train": max(0.1, min(1.0, 8 / size)), "batch-size": 8}  # fmt: skip
    classes = size if sweep == "classes" else 10
    _images(folder / "images", classes, max(1, IMAGES // classes))
    common = {"dataset": "imagefolder", "dataset-path": str(folder / "images"), "num-sites": SITES}
    extra = {"lora-rank": size} if sweep == "ranks" else {}
    return {**common, **extra, "peft": peft, "fraction-train": 1.0, "batch-size": 32}


def _images(folder: Path, classes: int, per_class: int) -> None:
    """Write random images: of each class as many to train on as given, and to test on 40 in all or one of each."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("test", max(1, 40 // classes))):
        for label in range(classes):
            place = folder / split / f"class {label}"
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(place / f"{number}.png")


def measure(sweep: str, peft: str, size: int, rounds: int) -> Row:
    """Run both phases in this process and read the cost from the run folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"FEDPUREL_HOME": name, "FLWR_TELEMETRY_ENABLED": "0"}
        import fedpurel_app

        chosen = settings(sweep, peft, size, folder)
        chosen |= {"global-rounds": rounds, "personal-rounds": rounds, "local-epochs": 1}
        chosen |= {"imbalance-factor": 1, "evaluate-every": rounds}
        started = time.process_time()
        with mock.patch("time.monotonic", time.process_time):  # what every part of a run measures its time with
            run = fedpurel_app.run(chosen, out=folder / "run")
        spent = time.process_time() - started
        lines = run.rounds[1:]
        private = {path: path.stat().st_size for path in (run.path / "private").rglob("*.safetensors")}

    def least(phase: str, key: str) -> float:
        return min(line["seconds"][key] for line in lines if line["phase"] == phase)

    visits, sites = len(lines[0]["usable"]), int(chosen["num-sites"])
    if any(line["dropped"] for line in lines):
        raise SystemExit(f"{sweep} = {size}: replies were dropped: {[line['dropped'][:1] for line in lines]}")
    evaluation = lines[-1]["seconds"]["evaluation"]
    return {
        "peft": peft,
        sweep: size,
        "sampled": visits,
        "global_s": least("global", "training"),
        "personal_s": least("personal", "training"),
        "evaluation_s": evaluation,
        "books_s": min(_books(line) for line in lines),
        "start_s": spent - sum(line["seconds"]["total"] for line in lines),
        "global_visit_ms": 1000 * least("global", "training") / visits,
        "at_site_ms": 1000 * least("global", "training_at_sites") / visits,
        "personal_visit_ms": 1000 * least("personal", "training") / visits,
        "evaluation_ms": 1000 * evaluation / sites,
        "wire_up_kb": lines[0]["bytes_up"] / visits / 1000,
        "wire_down_kb": lines[0]["bytes_down"] / visits / 1000,
        "branch_kb": max(private.values()) / 1000,
        "private_mib": sum(private.values()) / 2**20,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _books(line: Row) -> float:
    """Return a round's seconds beside training and evaluation: roster, aggregation's rest, tables, checkpoint."""
    known = ("training", "evaluation", "server", "server_features")
    return float(line["seconds"]["total"] - sum(line["seconds"].get(part, 0.0) for part in known))


def sweep_over(sweep: str, sizes: list[int], rounds: int) -> list[Row]:
    """Measure every size in a fresh process."""
    rows = []
    for peft in SWEEPS[sweep]:
        for size in sizes:
            command = [sys.executable, __file__, "--one", sweep, peft, str(size), "--rounds", str(rounds)]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if result.returncode:
                raise SystemExit(f"{sweep} = {size}:\n{result.stderr[-2000:]}")
            rows.append(json.loads(result.stdout.splitlines()[-1]))
    return rows


def table(rows: list[Row]) -> str:
    """Format rows as Markdown."""
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{'---|'}{'---:|' * (len(names) - 1)}"]
    for row in rows:
        cells = [f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:,.0f}"
                 if isinstance(value, int | float) else value for value in row.values()]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def growth(rows: list[Row], size: str) -> str:
    """Return the exponents k of seconds ~ size^k between the last two sizes."""
    first, last = rows[-2:]
    across = math.log(last[size] / first[size])
    parts = ("global_s", "personal_s", "evaluation_s", "books_s", "start_s")
    exponents = [f"{part} {math.log(last[part] / first[part]) / across:.2f}" for part in parts if first[part] > 0]
    return f"grows from {first[size]} to {last[size]} {size} with the power: {', '.join(exponents)}"


def draw(found: dict[str, list[Row]], path: Path) -> None:
    """Draw seconds over sites, and milliseconds of a visit over classes and ranks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = ("#0072B2", "#D55E00", "#56B4E9", "#999999")  # Okabe and Ito
    figure = plt.figure(figsize=(11, 3.9), layout="constrained")
    for axes, (sweep, rows) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        if sweep == "sites":
            names = {"global_s": "global training", "personal_s": "personal training", "evaluation_s": "evaluation",
                     "books_s": "the rest of a round"}  # fmt: skip
            series = {label: [(row[sweep], row[key]) for row in rows] for key, label in names.items()}
        else:
            names = {"global_visit_ms": "global", "personal_visit_ms": "personal"}
            series = {
                f"{peft}, {label}": [(row[sweep], row[key]) for row in rows if row["peft"] == peft]
                for peft in SWEEPS[sweep]
                for key, label in names.items()
            }
        for colour, (label, points) in zip(colours, series.items(), strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=label)
        axes.set(xscale="log", xlabel={"ranks": "LoRA rank"}.get(sweep, sweep))
        axes.set_xticks(
            sorted({row[sweep] for row in rows}), [f"{size:,}" for size in sorted({r[sweep] for r in rows})]
        )
        axes.minorticks_off()
        if sweep == "ranks":  # with which the time hardly grows
            axes.set_ylim(0, 1.1 * max(row["global_visit_ms"] for row in rows))
        else:
            axes.set_yscale("log")
        axes.set(ylabel="CPU seconds" if sweep == "sites" else "CPU milliseconds of a visit")
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="*", default=[20, 200, 2000, 10000])
    parser.add_argument("--classes", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=2, help="of each phase; the fastest counts (default: 2)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sweep, peft, size = options.one
        print(json.dumps(measure(sweep, peft, int(size), options.rounds)))
        return
    found: dict[str, list[Row]] = {}
    for sweep in SWEEPS:
        if sizes := getattr(options, sweep):
            found[sweep] = sweep_over(sweep, sizes, options.rounds)
            print(f"\n## {sweep}\n\n{table(found[sweep])}", flush=True)
            if sweep == "sites" and len(sizes) > 1:
                print(growth(found[sweep], sweep))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
