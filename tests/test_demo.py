"""What README says of the demo holds on a few of its seeds: FedAvg loses the tail, and FedPuReL keeps it."""

from pathlib import Path
from statistics import fmean

import pytest

from fedpurel_app.cli.main import main
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.sweeps.file import load_sweep
from fedpurel_app.sweeps.plan import make_plan

SWEEP = Path(__file__).parent.parent / "sweeps" / "readme.toml"
SEEDS = "300-302"


@pytest.mark.slow
def test_the_tail_is_lost_by_fedavg_and_kept_by_fedpurel(tmp_path):
    text = SWEEP.read_text().replace('seeds = "300-319"', f'seeds = "{SEEDS}"').replace("ProGrad =", "# ProGrad =")
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    assert f'seeds = "{SEEDS}"' in text
    alone = ["--set", "personal-rounds=0"]  # they do not change the global model
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), *alone]) == 0
    plan = make_plan(load_sweep(path, {"personal-rounds": 0}))
    summaries = {
        (cell.method, cell.seed): RunFolder(tmp_path / "out" / "runs" / cell.run).summary() or {} for cell in plan.cells
    }
    assert len(summaries) == 6
    gain = {
        score: fmean(
            summaries["FedPuReL", seed]["global"][score] - summaries["FedAvg", seed]["global"][score]
            for seed in (300, 301, 302)
        )
        for score in ("all", "few")
    }
    # Over these seeds it was +5.4 and +2.6; other machines and versions round otherwise.
    assert gain["few"] >= 3 and gain["all"] >= 0.5
    few = {method: fmean(one["global"]["few"] for (name, _), one in summaries.items() if name == method) for method in
           ("FedAvg", "FedPuReL")}  # fmt: skip
    reference = fmean(one["zero_shot"]["few"] for one in summaries.values())
    assert few["FedAvg"] < reference - 1 and few["FedPuReL"] > reference + 1
