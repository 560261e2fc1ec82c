"""Every method and every balancer by the command that a user types."""

import pytest

from fedpurel_app.algorithms.balancers.registry import BALANCERS
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.cli.main import main
from fedpurel_app.config import RunConfig
from fedpurel_app.data.shapes import rendered
from fedpurel_app.models.backbone import Backbone
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.reporting.run_folder import RunFolder

DEFAULTS = RunConfig().model_dump(by_alias=True)
SMALL = (
    "max-per-class=6",
    "imbalance-factor=3",
    "num-sites=3",
    "global-rounds=2",
    "personal-rounds=2",
    "evaluate-every=2",
)


def family_of(name):
    """The default family, or the first that a method goes with."""
    fits = (one for one in FAMILIES if not METHODS[name].unfit({**DEFAULTS, "algorithm": name, "peft": one}))
    return next(fits)


CASES = [(name, "none") for name in METHODS] + [("fedpurel", name) for name in BALANCERS if name != "none"]


def play(folder, name, balancer="none"):
    """Run a method by the command line, and return its summary."""
    settings = [f"algorithm={name}", f"balancer={balancer}", f"peft={family_of(name)}", *SMALL]
    kept = [one for one in settings if METHODS[name].personal_rounds or not one.startswith("personal-rounds")]
    words = [word for one in kept for word in ("--set", one)]
    assert main(["run", "--in-process", "--out", str(folder), *words]) == 0
    summary = RunFolder.open(folder).summary()
    assert summary is not None and summary["outcome"] == "completed"
    return summary


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(rendered, "SHAPES_TEST", 2)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "balancer"), CASES)
def test_it_runs_to_its_end_in_process(tmp_path, name, balancer):
    summary = play(tmp_path / "run", name, balancer)
    assert summary["global_at_sites"]["all"] is not None
    assert (summary["personalized"] is not None) == METHODS[name].personalizes


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if FAMILIES[family_of(name)].needs != "image tower"])
def test_no_image_is_encoded_that_was_encoded_before(tmp_path, monkeypatch, name):
    """So in rounds none is: all that a run uses are encoded before its first."""
    first = play(tmp_path / "first", name)

    def refuse(*_):
        raise AssertionError("an image went through the tower")

    for way in ("encode_pixels", "encode_patches"):
        monkeypatch.setattr(Backbone, way, refuse)
    again = play(tmp_path / "again", name)
    assert again["global_at_sites"] == first["global_at_sites"]
