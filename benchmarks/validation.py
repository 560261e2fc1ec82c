"""Compare settings on validation data: how the defaults (learning rates, rounds, first private branch) were chosen.

    python benchmarks/validation.py --vary learning-rate=0.03,0.1,0.3 --set algorithm=fedavg
    python benchmarks/validation.py --preset caltech-clip --set dataset-path=/data/features.npz \
        --vary algorithm=fedavg,fedpurel --vary learning-rate=0.03,0.1

Every combination runs with every seed in this process; the table is that of ``fedpurel compare``. Test data are not
touched: runs have ``evaluate-on = "validation"``. Seeds start at 100, so that they are not those of reported results.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))


def value_of(text: str) -> Any:
    """Read a TOML value; what is none is text."""
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return tomllib.loads(f"value = {text}")["value"]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="shapes")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--vary", metavar="KEY=VALUE,VALUE,...", action="append", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--out", metavar="STEM", type=Path, help="write the table to STEM.md and STEM.csv")
    options = parser.parse_args()
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", HF_HUB_OFFLINE="1")

    import fedpurel_app
    from fedpurel_app.config import without_idle
    from fedpurel_app.reporting.compare import compare

    fixed = {key: value_of(text) for key, _, text in (pair.partition("=") for pair in options.set)}
    fixed["evaluate-on"] = "validation"
    varied = [(key, text.split(",")) for key, _, text in (pair.partition("=") for pair in options.vary)]
    with tempfile.TemporaryDirectory() as scratch:
        folders: list[Path] = []
        for choice in itertools.product(*(values for _, values in varied)):
            chosen = {key: value_of(text) for (key, _), text in zip(varied, choice, strict=True)}
            for seed in options.seeds:
                path = Path(scratch) / str(len(folders))
                asked = without_idle({**fixed, **chosen, "seed": seed})  # of another method than one that varies
                fedpurel_app.run(asked, preset=options.preset, out=path)
                folders.append(path)
        for line in compare(folders, options.out):
            print(line)


if __name__ == "__main__":
    main()
