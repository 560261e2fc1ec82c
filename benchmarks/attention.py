"""Plant groups of sites, and measure whether the knob of CoAction looks at sites of the own group more than at others.

    python benchmarks/attention.py --data features.npz
    python benchmarks/attention.py --quick

Sites are those of ``benchmarks/planted.py``: 20 in 4 groups, so that even attention gives the own group, with the site
itself, a share of 25 %. Printed for both kinds of embeddings: the mean cosine of two sites' embeddings in a group less
that across groups; the share of attention on the own group, mean over sites and the preferences (1, 0), (1/2, 1/2) and
(0, 1), in percent, with h as it begins and as it was trained; and the latter less 25, over the seeds, with the interval
of ``fedpurel table``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import numpy.typing as npt

from benchmarks.planted import GROUPS, SITES, Bench

_EVEN = 100 / GROUPS  # [%]
_PREFERENCES = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))


class Looked(NamedTuple):
    """What came of a run: likeness of embeddings within groups less across them, and attention on the own group [%]."""

    likeness: float
    before: float
    after: float


def likeness(rows: npt.NDArray[Any], groups: Sequence[str]) -> float:
    """Return the mean cosine of two rows of one group less that of two rows of different ones."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    same = np.array([[one == other for other in groups] for one in groups])
    cosines, others = unit @ unit.T, ~np.eye(len(rows), dtype=bool)
    return float(cosines[same & others].mean() - cosines[~same].mean())


def on_own(knob: Any, tasks: Mapping[str, npt.NDArray[Any]], groups: Mapping[str, str]) -> float:
    """Return the share of attention that sites pay to their own group, in percent; rows are in the order of names."""
    import torch

    found = []
    for site, rows in tasks.items():
        names = [site, *(name for name in sorted(tasks) if name != site)]
        own = torch.tensor([groups[name] == groups[site] for name in names])
        with torch.no_grad():
            found += [float(knob.attention(torch.tensor(p), torch.tensor(rows))[own].sum()) for p in _PREFERENCES]
    return 100 * fmean(found)


class Attentive(Bench):
    """Runs of CoAction on planted sites."""

    def look(self, seed: int, purity: float, changes: Mapping[str, Any]) -> Looked:
        """Run once, and look at what sites look at."""
        from safetensors.numpy import load_file

        from fedpurel_app.config import load_config
        from fedpurel_app.experiment import Experiment
        from fedpurel_app.models.peft.pareto import Pareto

        nodes = self.plant(seed, purity)
        groups = {node["site"]: node["edge"] for node in nodes}
        arrays = self.run(seed, purity, changes).arrays
        path = self.scratch / f"run_{self.done}"
        files = {site: max((path / "private").rglob(f"{site}/private-*.safetensors")) for site in groups}
        tasks = {site: load_file(file)["memory/tasks"] for site, file in files.items()}
        kit = Experiment(load_config({**self.common, **changes, "seed": seed}), self.scratch / "cache").kit
        shares = []
        for values in (kit.first_arrays(), arrays):
            module = kit.private_module(values, {})
            assert isinstance(module, Pareto)
            shares.append(on_own(module.knob, tasks, groups))
        own = np.stack([rows[0] for rows in tasks.values()])
        return Looked(likeness(own, list(groups.values())), *shares)


def report(name: str, found: Mapping[int, Looked]) -> str:
    """Return the row of one kind of embeddings."""
    from fedpurel_app.reporting.leaderboard.paired import compare

    like, before, after = (fmean(column) for column in zip(*found.values(), strict=True))
    one = compare({seed: run.after for seed, run in found.items()}, dict.fromkeys(found, _EVEN))
    said = one.why or f"{one.difference:+.2f} [{one.low:+.2f}, {one.high:+.2f}] {one.wins}:{one.losses}"
    return f"| {name} | {like:.2f} | {before:.2f} | {after:.2f} | {said} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a file of features, in the place of drawn ones")
    parser.add_argument("--rounds", type=int, default=20, help="global rounds (default: 20)")
    parser.add_argument("--personal", type=int, default=20, help="personal rounds (default: 20)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(300, 305)))
    parser.add_argument("--purity", type=float, default=0.9)
    parser.add_argument("--quick", action="store_true", help="the first seed alone, and few rounds")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="of every run")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.rounds, options.personal = options.seeds[:1], 2, 2
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", HF_HUB_OFFLINE="1")
    print(
        f"{SITES} sites, {options.purity:.0%} of a site's images from its group's block; even attention: {_EVEN:g} %\n"
    )
    print(
        "| embeddings | likeness | own group, h as it begins [%] | trained [%] | less even, by seed |\n"
        + "|---" * 5
        + "|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        bench = Attentive(options, Path(scratch))
        for name in ("fingerprint", "learned"):
            changes = {"algorithm": "coaction", "task-embedding": name, "personal-rounds": options.personal}
            print(report(name, {seed: bench.look(seed, options.purity, changes) for seed in options.seeds}), flush=True)


if __name__ == "__main__":
    main()
