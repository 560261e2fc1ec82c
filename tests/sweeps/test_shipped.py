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


def test_the_example_of_the_docs_makes_a_plan(tmp_path):
    text = (FILES[0].parent.parent / "docs" / "sweeps.md").read_text("utf-8")
    path = tmp_path / "sweep.toml"
    path.write_text(text.partition("```toml\n")[2].partition("```")[0])
    plan = make_plan(load_sweep(path))
    assert len(plan.cells) == 2 * 2 * (10 + 10 + 5)  # data, alpha, and seeds of each method
    assert len(candidates(plan.file)) == 2 * 3 * 3  # data, methods, rates
