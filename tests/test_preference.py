"""A site's model at the preference that its user asks for: loaded, predicted with, exported, and its front on disk."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from fedpurel_app.cli import main as cli
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.fronts import PARETO, points_of, preference_of
from fedpurel_app.core.metrics_pareto import hypervolume
from fedpurel_app.data.shapes import rendered
from fedpurel_app.inference.trained import load_trained
from tests.support import run_tiny

SITE = "site-1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose knob moves its branches: the rate is wide."""
    return run_tiny(tmp_path_factory.mktemp("copsl"), algorithm="copsl", private_learning_rate=2.0, fraction_train=1.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A run on images, whose prompt has a knob, and one of its images."""
    folder = tmp_path_factory.mktemp("pictures")
    settings = {"dataset": "shapes", "dataset_path": "", "max_per_class": 4, "imbalance_factor": 4, "num_sites": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered, "SHAPES_TEST", 2)
        made = run_tiny(folder, algorithm="copsl", peft="prompt", global_rounds=1, fraction_train=1.0, **settings)
        image = folder / "image.png"
        next(iter(rendered.load_shapes("", 0).test.images(np.arange(1)))).save(image)
    return made, image


def data_of(folder):
    """Test images of the site, by the run's own books: features and labels."""
    arrays = np.load(folder.path.parent / "features.npz")
    rows = folder.read_json("partition.json")["test"][1]
    return torch.from_numpy(arrays["test_features"][rows]), torch.from_numpy(arrays["test_labels"][rows])


@pytest.mark.parametrize("own", [0.0, 0.3, 1.0])
def test_a_loaded_model_has_the_accuracy_of_its_point_on_the_front(run, own):
    model = load_trained(run.path, SITE, preference=[own])
    inputs, labels = data_of(run)
    accuracy = 100 * float((model.logits(inputs).argmax(1) == labels).double().mean())
    row = next(one for one in run.read_csv("fronts.csv")
               if one["site"] == SITE and one["curve"] == PARETO and float(one["at"]) == own)  # fmt: skip
    assert accuracy == pytest.approx(float(row["own_accuracy"]), abs=1e-3)
    assert set(model.branches) == {"global", "private"} and model.preference == (own, 1 - own)


def test_where_nobody_asks_the_model_is_that_of_the_sites_own_mix(run):
    inputs, _ = data_of(run)
    plain, own = load_trained(run.path, SITE), load_trained(run.path, SITE, preference=[1.0])
    assert torch.equal(plain.logits(inputs), own.logits(inputs)) and plain.preference == ()
    other = load_trained(run.path, SITE, preference=[0.0])
    assert not torch.allclose(other.logits(inputs), own.logits(inputs), atol=1e-2)


def test_three_curves_are_on_disk_for_every_site_and_add_up_to_their_scores(run):
    rows, worth = run.read_csv("fronts.csv"), run.read_csv("front-scores.csv")
    assert len(rows) == 5 * len(points_of(2)) == 5 * 33 and len(worth) == 5 * 3
    assert {row["all_of"] for row in rows} == {"server"}
    for one in worth:
        mine = [row for row in rows if (row["site"], row["curve"]) == (one["site"], one["curve"])]
        errors = [[1 - float(row[name]) / 100 for name in ("own_accuracy", "all_accuracy")] for row in mine]
        assert float(one["hypervolume"]) == pytest.approx(100 * hypervolume(errors, (1, 1)), abs=1e-2)
    means = run.summary()["fronts"]
    knob = [float(one["hypervolume"]) for one in worth if one["curve"] == PARETO]
    assert means[PARETO]["hypervolume"] == pytest.approx(np.mean(knob), abs=1e-3)
    assert set(means) == {"pareto", "logit-adjustment", "dial"}, "what costs no training stands beside it"


def test_the_ends_of_the_curves_are_the_models_that_they_are_named_after(run):
    """tau = 0 and a = 1 are the knob at (1, 0); a = 0 is the global model."""
    rows = {(row["curve"], row["at"]): row for row in run.read_csv("fronts.csv") if row["site"] == SITE}
    numbers = ("own_accuracy", "all_accuracy", "agreement")
    ends = [[rows[key][name] for name in numbers]
            for key in ((PARETO, "1"), ("logit-adjustment", "0"), ("dial", "1"))]  # fmt: skip
    assert ends[0] == ends[1] == ends[2] and float(rows["dial", "0"]["agreement"]) == 100
    site = next(row for row in run.read_csv("sites.csv") if row["site"] == SITE)
    assert rows[PARETO, "1"]["own_accuracy"] == site["personalized"]
    assert rows["dial", "0"]["own_accuracy"] == site["global"]


def test_an_export_is_a_classifier_for_every_preference_that_is_asked_for(run, tmp_path, capsys):
    asked = [argument for own in (0, 0.5) for argument in ("--preference", str(own))]
    assert cli.main(["export", "--run", str(run.path), "--site", SITE, "--out", str(tmp_path / "out"), *asked]) == 0
    inputs, _ = data_of(run)
    for own, name in ((0.0, "preference-0-1"), (0.5, "preference-0.5-0.5")):
        parts = [load_file(tmp_path / "out" / name / role / "classifier.safetensors") for role in ("global", "private")]
        logits = sum(normalize(inputs, dim=-1) @ part["weights"].T for part in parts) + parts[0]["bias"]
        assert torch.allclose(logits, load_trained(run.path, SITE, preference=[own]).logits(inputs), atol=1e-4)
        facts = json.loads((tmp_path / "out" / name / "private" / "export.json").read_text())
        assert facts["preference"] == [own, 1 - own]
        assert set(load_file(tmp_path / "out" / name / "private" / "parameters.safetensors")) == {"residual"}
    capsys.readouterr()
    alone = ["export", "--run", str(run.path), "--site", SITE, "--out", str(tmp_path / "one"), "--preference", "0.5"]
    assert cli.main(alone) == 0 and (tmp_path / "one" / "private" / "classifier.safetensors").is_file()
    assert cli.main([*alone[:-3], str(tmp_path / "two"), "--preference", "0", "--preference", "0"]) == 2
    assert "asked for twice" in capsys.readouterr().err


def test_predictions_go_by_the_preference(pictures, capsys):
    folder, image = pictures

    def probabilities(*asked):
        arguments = ["predict", "--run", str(folder.path), "--site", "site-0", "--json", *asked, str(image)]
        assert cli.main(arguments) == 0
        return json.loads(capsys.readouterr().out)

    own, even = probabilities(), probabilities("--preference", "0")
    assert "preference" not in own and even["preference"] == [0, 1]
    assert own["predictions"] != even["predictions"]


@pytest.mark.parametrize(
    ("asked", "form"),
    [
        ([1.5], "a number from 0 to 1"),
        ([-0.1], "a number from 0 to 1"),
        ([float("nan")], "a number from 0 to 1"),
        ([0.5, 0.2, 0.3], "a number from 0 to 1"),
    ],
)
def test_a_preference_that_cannot_be_is_refused(run, asked, form):
    with pytest.raises(ConfigError, match=form):
        load_trained(run.path, SITE, preference=asked)


def test_three_losses_take_three_weights():
    assert preference_of([0.5, 0.25, 0.25], 3) == (0.5, 0.25, 0.25) and preference_of([0.2, 0.8], 2) == (0.2, 0.8)
    for asked in ([0.5], [0.5, 0.5], [0.5, 0.5, 0.5]):
        with pytest.raises(ConfigError, match="3 numbers of at least 0 that add up to 1"):
            preference_of(asked, 3)


def test_a_preference_is_refused_where_there_is_none_to_ask_for(run, tmp_path):
    with pytest.raises(ConfigError, match="name the site, --site NAME"):
        load_trained(run.path, preference=[0.5])
    other = run_tiny(tmp_path, global_rounds=1, personal_rounds=1, fraction_train=1.0)
    with pytest.raises(ConfigError, match=r'has one model for each site.*algorithm = "copsl"'):
        load_trained(other.path, SITE, preference=[0.5])
    assert not (other.path / "fronts.csv").exists() and "fronts" not in other.summary()


@pytest.mark.parametrize("text", ["much", "0.5;0.5", ""])
def test_what_is_no_number_is_refused_by_the_command(run, text, capsys):
    with pytest.raises(SystemExit):
        cli.main(["predict", "--run", str(run.path), "--site", SITE, "--preference", text, "x.png"])
    assert "a number from 0 to 1" in capsys.readouterr().err


def test_three_losses_have_a_front_in_three_objectives(tmp_path):
    folder = run_tiny(
        tmp_path, algorithm="copsl", preferences=3, global_rounds=1, personal_rounds=1, fraction_train=1.0
    )
    rows = folder.read_csv("fronts.csv")
    assert len(rows) == 5 * (15 + 11 + 11) and {row["at"] for row in rows if row["curve"] == PARETO} >= {
        "0.25;0.5;0.25"
    }
    one = [row for row in rows if row["site"] == SITE and row["curve"] == "dial"]
    errors = [[1 - float(row[name]) / 100 for name in ("own_accuracy", "all_accuracy", "agreement")] for row in one]
    worth = next(row for row in folder.read_csv("front-scores.csv") if (row["site"], row["curve"]) == (SITE, "dial"))
    assert float(worth["hypervolume"]) == pytest.approx(100 * hypervolume(errors, (1, 1, 1)), abs=1e-2)
