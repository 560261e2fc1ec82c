"""A private branch for a site that no run has met: trained at home, scored, and used."""

import json
import shutil
import stat

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import new_site
from fedpurel_app.api import Run
from fedpurel_app.cli import main as cli
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError, DataError, StateError
from fedpurel_app.data.shapes import rendered, shapes
from fedpurel_app.data.sources.source import NO_ROWS, Source
from fedpurel_app.inference import personalize
from fedpurel_app.inference.new_site import site_settings
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.reporting.card.card import card
from fedpurel_app.reporting.page.snapshot import Snapshot
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.site.sealing import make_key_file
from tests.support import run_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a finished run on precomputed features: five sites, three global and three personal rounds."""
    return run_tiny(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def images_run(tmp_path_factory):
    """Return a finished run on images: its settings name a CLIP that encodes others, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered, "SHAPES_TEST", 2)
        settings = {"dataset": "shapes", "dataset_path": "", "max_per_class": 4, "num_sites": 3, "global_rounds": 2}
        settings |= {"personal_rounds": 2, "imbalance_factor": 4, "peft": "prompt", "full_first_round": True}
        yield run_tiny(tmp_path_factory.mktemp("images"), **settings)


def features_of(run, path, labels=(0, 1), shift=0.0):
    """Write a file of features of a few classes, with the texts of the run's own file."""
    with np.load(run.read_json("config.json")["config"]["dataset-path"]) as file:
        arrays = {name: file[name] for name in file.files}
    for part in ("train", "test"):
        rows = np.isin(arrays[f"{part}_labels"], labels)
        arrays |= {
            f"{part}_features": arrays[f"{part}_features"][rows],
            f"{part}_labels": arrays[f"{part}_labels"][rows],
        }
    arrays["text_features"] = arrays["text_features"] + np.float32(shift)
    np.savez(path, **arrays)
    return path


def pictures(folder, labels=(0, 1), count=6):
    for label in labels:
        place = folder / shapes.CLASS_NAMES[label]
        place.mkdir(parents=True)
        for index, picture in enumerate(shapes.images("train", label, 0, count, seed=7)):
            Image.fromarray(picture).save(place / f"{index}.png")
    return folder


def branches(path):
    return {one.name: one.read_bytes() for one in sorted(path.rglob("private-*.safetensors"))}


def call(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_new_site_trains_as_often_as_a_site_of_the_run_did_on_average(run, tmp_path):
    """Of three personal rounds with 0.4 of the sites each, 1.2: one visit. They are numbered on from the last."""
    data = features_of(run, tmp_path / "own.npz")
    made = Run(run.path).personalize(data, tmp_path / "out")
    assert RunFolder(made.path).read_json("config.json")["config"]["personal-rounds"] == 1
    assert [(line["round"], line["cohort"]) for line in RunFolder(made.path).rounds()] == [(4, ["new-site"])]
    more = Run(run.path).personalize(data, tmp_path / "more", settings={"personal-rounds": 4})
    assert [line["round"] for line in RunFolder(more.path).rounds()] == [4, 5, 6, 7]
    assert list(branches(more.path)) == ["private-000006.safetensors", "private-000007.safetensors"]


def test_the_same_seed_and_name_give_the_same_bits_and_others_give_others(run, tmp_path):
    data, changes = features_of(run, tmp_path / "own.npz"), {"personal-rounds": 2, "batch-size": 4}
    first, second = (Run(run.path).personalize(data, tmp_path / name, settings=changes) for name in ("a", "b"))
    assert branches(first.path) == branches(second.path) and len(branches(first.path)) == 2
    assert first.pooled == second.pooled
    other = Run(run.path).personalize(data, tmp_path / "c", settings={**changes, "seed": 5})
    assert branches(other.path) != branches(first.path)
    named = load_trained(Run(run.path).personalize(data, tmp_path / "d", "clinic", changes).path, "clinic")
    ours = load_trained(first.path, "new-site")
    inputs = torch.from_numpy(np.load(data)["test_features"])
    assert not torch.equal(named.logits(inputs), ours.logits(inputs))


def test_the_folder_is_a_run_of_one_site_whose_branch_and_global_model_are_loaded(run, tmp_path, capsys):
    data = features_of(run, tmp_path / "own.npz")
    asked = ("--out", tmp_path / "out", "--site", "clinic-d", "--set", "personal-rounds=3")
    code, out, _ = call(capsys, "personalize", run.path, "--data", data, *asked)
    assert code == 0
    inputs = torch.from_numpy(np.load(data)["test_features"])
    before, after = load_trained(tmp_path / "out"), load_trained(tmp_path / "out", "clinic-d")
    assert torch.equal(before.logits(inputs), load_trained(run.path).logits(inputs))
    labels = torch.from_numpy(np.load(data)["test_labels"])
    shares = [100 * (int((model.logits(inputs).argmax(1) == labels).sum()) / len(labels)) for model in (before, after)]
    sentence, head, *rows = out.splitlines()
    assert f"{shares[1]:.1f} % of {len(labels)} test images are right, {shares[0]:.1f} % with the global" in sentence
    assert sentence.startswith("clinic-d: ") and f": {shares[1] - shares[0]:+.1f} points (95 % interval " in sentence
    assert head.split() == ["all", "many", "medium", "few", "balancedness"]
    assert [row.split()[0] for row in rows[:3]] == ["zero-shot", "global", "personalized"]
    assert rows[2].split()[1] == f"{shares[1]:.1f}"
    assert rows[3] == f"use it: fedpurel predict --run {tmp_path / 'out'} --site clinic-d IMAGE"
    rows = RunFolder.open(tmp_path / "out").read_csv("calibration.csv")
    every = [row for row in rows if row["model"] == "personalized" and row["group"] == "all"]
    assert sum(int(row["correct"]) for row in every) == round(shares[1] * len(labels) / 100)
    code, out, _ = call(capsys, "show", tmp_path / "out")
    assert code == 0 and "completed, 3 rounds" in out and "clinic-d" in out
    assert call(capsys, "export", "--run", tmp_path / "out", "--site", "clinic-d", "--out", tmp_path / "e")[0] == 0
    assert (tmp_path / "e" / "private" / "parameters.safetensors").exists()


def test_images_of_a_new_site_are_trained_on_and_predicted(images_run, tmp_path, capsys):
    data = pictures(tmp_path / "data")
    code, out, _ = call(capsys, "personalize", images_run.path, "--data", data, "--out", tmp_path / "out")
    assert code == 0 and "of 2 test images" in out  # a fifth of six, rounded down, of both classes
    image = next(data.rglob("*.png"))
    code, out, _ = call(capsys, "predict", "--run", tmp_path / "out", "--site", "new-site", "--json", image)
    assert code == 0 and json.loads(out)["site"] == "new-site"


def test_the_branch_and_its_folder_are_closed_to_others(run, tmp_path):
    made = Run(run.path).personalize(features_of(run, tmp_path / "own.npz"), tmp_path / "out")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    for path in made.path.rglob("private-*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {one.name for one in tmp_path.iterdir()} == {"own.npz", "out"}  # nothing half made beside it


def test_a_key_encrypts_the_branch(run, tmp_path):
    key = tmp_path / "site.key"
    make_key_file(key)
    made = Run(run.path).personalize(features_of(run, tmp_path / "own.npz"), tmp_path / "out", key_file=key)
    assert all(content.startswith(b"fedpurel sealed 1\n") for content in branches(made.path).values())
    with pytest.raises(StateError, match="encrypted"):
        load_trained(made.path, "new-site")
    assert load_trained(made.path, "new-site", key_file=key).site == "new-site"


def test_the_run_and_its_branches_are_left_as_they_were(run, tmp_path):
    def content():
        return {path: path.read_bytes() for path in sorted(run.path.rglob("*")) if path.is_file()}

    before = content()
    Run(run.path).personalize(features_of(run, tmp_path / "own.npz"), tmp_path / "out")
    assert content() == before


def test_groups_are_those_of_the_run(run, tmp_path):
    made = Run(run.path).personalize(features_of(run, tmp_path / "own.npz"), tmp_path / "out")
    theirs, ours = (RunFolder(path).read_csv("classes.csv") for path in (run.path, made.path))
    assert [(row["group"], row["train_images"]) for row in ours] == [
        (row["group"], row["train_images"]) for row in theirs
    ]
    groups = {row["group"] for row in theirs if int(row["label"]) < 2}
    scored = {name for name in ("many", "medium", "few") if made.pooled["global"][name] is not None}
    assert scored == groups


def test_without_an_evaluation_no_group_is_known(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    (copy / "classes.csv").unlink()
    made = Run(copy).personalize(features_of(run, tmp_path / "own.npz"), tmp_path / "out")
    assert made.pooled["personalized"]["few"] is None and made.pooled["personalized"]["all"] is not None


@pytest.mark.parametrize(
    ("algorithm", "why"),
    [("fedavg", "it has no private part"), ("fedper", "its private part is trained in global rounds")],
)
def test_a_method_without_a_branch_of_its_own_is_refused(tmp_path, capsys, algorithm, why):
    changes = {"peft": "adapter"} if algorithm == "fedper" else {}
    run = run_tiny(tmp_path / "run", algorithm=algorithm, **changes)
    data = features_of(run, tmp_path / "own.npz")
    code, _, err = call(capsys, "personalize", run.path, "--data", data, "--out", tmp_path / "out")
    assert code == 2 and why in err and '"fedpurel" or "ditto"' in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        ("align-loss=kl", "personalize cannot change align-loss"),
        ("alpha=1.0", "personalize cannot change alpha"),
        ("personal-rounds=0", "at least once"),
        ("local-epochs=0", "local-epochs = 0"),
        ("private-weight=2.0", "private-weight = 2.0"),
    ],
)
def test_other_settings_than_those_of_personal_rounds_are_refused(run, tmp_path, capsys, pair, why):
    data = features_of(run, tmp_path / "own.npz")
    code, _, err = call(capsys, "personalize", run.path, "--data", data, "--out", tmp_path / "out", "--set", pair)
    assert code == 2 and why in err and not (tmp_path / "out").exists()


def test_a_run_without_personal_rounds_asks_how_many(tmp_path):
    run = run_tiny(tmp_path / "run", personal_rounds=0)
    data = features_of(run, tmp_path / "own.npz")
    with pytest.raises(ConfigError, match="personal-rounds=8"):
        Run(run.path).personalize(data, tmp_path / "out")
    made = Run(run.path).personalize(data, tmp_path / "out", settings={"personal-rounds": 2})
    assert len(RunFolder(made.path).rounds()) == 2


def test_a_folder_that_is_not_empty_and_foreign_texts_are_refused(run, tmp_path):
    data = features_of(run, tmp_path / "own.npz")
    with pytest.raises(StateError, match="not an empty folder"):
        Run(run.path).personalize(data, tmp_path)
    with pytest.raises(DataError, match="other text_features"):
        Run(run.path).personalize(features_of(run, tmp_path / "foreign.npz", shift=0.5), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_of_two_commands_with_one_folder_the_first_has_it(run, tmp_path, monkeypatch):
    data, write = features_of(run, tmp_path / "own.npz"), personalize._write

    def late(folder, *rest):
        write(folder, *rest)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "of-the-other").touch()

    monkeypatch.setattr(personalize, "_write", late)
    with pytest.raises(StateError, match=r"out cannot be written \(Directory not empty\)"):
        Run(run.path).personalize(data, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["of-the-other"] and not list(tmp_path.glob(".out*"))


def test_a_card_and_a_page_name_no_command_that_would_make_another_model(run, tmp_path):
    made = Run(run.path).personalize(features_of(run, tmp_path / "own.npz"), tmp_path / "out")
    text = card(Snapshot(made.path), made.site)
    assert "No command is known: fedpurel personalize made this model" in text and "```" not in text
    assert "The site sent nothing: it trained at home." in text and "the server saw" not in text


def test_classes_that_the_run_does_not_know_are_refused(images_run, tmp_path, capsys):
    data = pictures(tmp_path / "data")
    (data / shapes.CLASS_NAMES[0]).rename(data / "unicorn")
    code, _, err = call(capsys, "personalize", images_run.path, "--data", data, "--out", tmp_path / "out")
    assert code == 2 and "unicorn" in err and not (tmp_path / "out").exists()


def test_names_with_commas_and_the_template_of_the_data_set_are_kept(tmp_path):
    source = Source("pets", ("cat, big", "dog"), "a type of pet, a photo of a {}.", NO_ROWS, NO_ROWS)
    config = load_config({"dataset": "oxford-pets", "imbalance-factor": 10.0, "alpha": 0.3, "fraction-train": 0.5,
                          "personal-rounds": 7, "template": "auto"})  # fmt: skip
    settings, table = site_settings(config, source, tmp_path, {"label-column": "diagnosis"})
    assert settings.class_names == ("cat, big", "dog") and settings.template == source.template
    assert settings.personal_rounds == 4 and settings.dataset == "sites"  # 3.5, rounded to the even
    assert table["label-column"] == "diagnosis" and table["path-column"] == "path"


@pytest.mark.slow
def test_over_ten_seeds_a_branch_is_worth_more_than_the_global_model_to_a_site_of_few_classes(tmp_path):
    """Five of 48 classes: the global model does not know that the others never come."""
    gains = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered, "SHAPES_TEST", 4)
        for seed in range(10):
            settings = {"dataset": "shapes", "dataset_path": "", "max_per_class": 20, "num_sites": 4, "seed": seed}
            settings |= {"global_rounds": 4, "personal_rounds": 0, "peft": "prompt", "evaluate_every": 10}
            run = run_tiny(tmp_path / f"{seed}", **settings)
            labels = np.random.default_rng(seed).choice(48, 5, replace=False)
            data = pictures(tmp_path / f"{seed}" / "data", labels, 30)
            made = Run(run.path).personalize(data, tmp_path / f"{seed}" / "out", settings={"personal-rounds": 8})
            gains.append(made.pooled["personalized"]["all"] - made.pooled["global"]["all"])
    mean, error = np.mean(gains), np.std(gains, ddof=1) / np.sqrt(len(gains))
    assert mean - 2.262 * error > 0, gains  # the t quantile of nine degrees


@pytest.mark.slow
def test_the_script_that_measures_new_sites_scores_them_as_the_command_does(images_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rendered, "SHAPES_TEST", 2)
    new_site.main([str(images_run.path), "--sites", "1", "--json", str(tmp_path / "scores.json")])
    (scores,) = json.loads((tmp_path / "scores.json").read_text()).values()
    new_site.write_site(Run(images_run.path), 0, tmp_path / "data")
    made = Run(images_run.path).personalize(tmp_path / "data", tmp_path / "out", "new-0")
    assert {one: scores["personalized"][one] for one in new_site.COLUMNS} == {
        one: made.pooled["personalized"][one] for one in new_site.COLUMNS
    }
    assert f"seed 0: zero_shot {scores['zero_shot']['all']:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize(("algorithm", "last"), [("copsl", "outer"), ("coaction", "coordinates")])
def test_a_new_site_of_a_run_with_a_knob_has_one_of_its_own(run, tmp_path, algorithm, last):
    """It begins with the run's h, and goes on training it alone."""
    with_knob = run_tiny(tmp_path / "run", algorithm=algorithm, private_learning_rate=1.0)
    changes = {"personal-rounds": 2, "private-learning-rate": 1.0}
    made = Run(with_knob.path).personalize(features_of(run, tmp_path / "own.npz"), tmp_path / "out", settings=changes)
    before, after = (RunFolder(path).read_checkpoint()[0] for path in (with_knob.path, made.path))
    assert before.keys() == after.keys() and before["residual"].tobytes() == after["residual"].tobytes()
    assert before[f"h.{last}.weight"].tobytes() != after[f"h.{last}.weight"].tobytes()
    inputs = torch.from_numpy(np.load(tmp_path / "own.npz")["test_features"])
    own, even = (load_trained(made.path, "new-site", preference=[value]).logits(inputs) for value in (1.0, 0.0))
    # A site of two classes of six: all alike lifts the logits of the four that it has not.
    assert ((even - own)[:, 2:].mean() > (even - own)[:, :2].mean()).item()
