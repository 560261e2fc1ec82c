"""The sweeps that come with the project make a plan, and name no seed for tuning that is reported."""

from pathlib import Path

import pytest

from fedpurel_app.sweeps.file import load_sweep
from fedpurel_app.sweeps.plan import make_plan
from fedpurel_app.sweeps.tuning import candidates

FILES = sorted((Path(__file__).parent.parent.parent / "sweeps").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_makes_a_plan(path):
    file = load_sweep(path)
    plan = make_plan(file)
    chooses = {cell.config.evaluate_on for cell in plan.cells} == {"validation"}
    assert plan.cells and len({cell.seed for cell in plan.cells}) >= (3 if chooses else 5)
    if file.tune:
        assert {one.method for one in candidates(file)} <= set(file.methods)


def test_there_are_some():
    assert {"demo", "caltech", "calibration"} <= {path.stem for path in FILES}
