"""Classes that no site trains on: kept out of data and scores, and scored as new ones beside zero-shot."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedpurel_app.cli import main as cli
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError, DataError
from fedpurel_app.data.shapes import rendered, shapes
from fedpurel_app.data.sources.feature_file import load_features
from fedpurel_app.data.sources.novel import split_novel
from fedpurel_app.data.sources.source import PLAIN_TEMPLATE, Centres, FeatureSplit, Source
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.reporting.novel import novel_lines
from tests.support import run_tiny, tiny_features


def a_source():
    """Five classes, two training images and one test image of each, in turn at two sites."""
    train, test = np.tile(np.arange(5), 2), np.arange(5)
    splits = (FeatureSplit(np.eye(10, 3, dtype=np.float32) + 1, train, "a"),
              FeatureSplit(np.arange(15, dtype=np.float32).reshape(5, 3), test, "b"))  # fmt: skip
    centres = Centres(("x", "y"), np.arange(10) % 2, np.zeros(0, np.int64), np.arange(5) % 2)
    names = ("cat", "polar bear", "dog", "eel", "fox")
    return Source("zoo", names, PLAIN_TEMPLATE, *splits, superclass=(7, 7, 3, 3, 9), centres=centres)


def test_classes_are_parted_with_all_that_belongs_to_them():
    base, novel = split_novel(a_source(), ("Polar_Bear", "eel"))
    assert (base.class_names, novel.class_names) == (("cat", "dog", "fox"), ("polar bear", "eel"))
    assert base.train.labels.tolist() == [0, 1, 2, 0, 1, 2] and base.test.labels.tolist() == [0, 1, 2]
    assert novel.test.labels.tolist() == [0, 1] and not len(novel.train.labels)
    assert isinstance(novel.test, FeatureSplit) and base.centres is not None
    assert novel.test.features.tolist() == [[3, 4, 5], [9, 10, 11]]  # rows 1 and 3
    assert base.superclass == (1, 0, 2)  # 7, 3 and 9, numbered anew by size
    assert base.centres.train.tolist() == [0, 0, 0, 1, 1, 1] and base.centres.test.tolist() == [0, 0, 0]
    assert base.notes == ("2 of 5 classes are novel, and are not trained on: novel-classes",)
    assert base.train.fingerprint != a_source().train.fingerprint


def test_of_two_classes_of_one_name_neither_is_trained_on():
    """As of ImageNet's two cranes: the name of a novel class would be one of the base classes, too."""
    twice = replace(a_source(), class_names=("crane", "polar bear", "dog", "crane", "fox"))
    base, novel = split_novel(twice, ("crane",))
    assert (base.class_names, novel.class_names) == (("polar bear", "dog", "fox"), ("crane", "crane"))
    assert isinstance(novel.test, FeatureSplit) and novel.test.features.tolist() == [[0, 1, 2], [9, 10, 11]]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("unicorn", "cat"), "has no unicorn"),
        (("cat",), "names 1 of 5"),
        (("cat", "Cat"), "names 1 of 5"),
        (("cat", "dog", "eel", "fox"), "names 4 of 5"),
    ],
)
def test_what_leaves_too_little_to_tell_apart_is_refused(names, said):
    with pytest.raises(DataError, match=said):
        split_novel(a_source(), names)


def test_sites_with_data_of_their_own_have_no_novel_classes():
    with pytest.raises(ConfigError, match="novel-classes has no use"):
        load_config({"dataset": "sites", "classes": "a, b, c", "novel-classes": "b, c"})


def test_a_run_scores_base_and_novel_classes_and_their_harmonic_mean(tmp_path, capsys):
    data = tiny_features(tmp_path / "data.npz", width=8)
    whole = load_features(str(data), 0)
    assert isinstance(whole.test, FeatureSplit) and whole.classifier is not None
    novel = whole.class_names[1:4]
    run = run_tiny(tmp_path / "run", dataset_path=str(data), novel_classes=", ".join(novel))
    base = [name for name in whole.class_names if name not in novel]
    assert json.loads((run.path / "classes.json").read_text())["class_names"] == base
    assert [row["name"] for row in run.read_csv("classes.csv")] == base
    rows = np.isin(whole.test.labels, [1, 2, 3])
    features = torch.nn.functional.normalize(torch.from_numpy(whole.test.features[rows]), dim=-1)
    text = torch.nn.functional.normalize(torch.from_numpy(whole.classifier.text_features[1:4]), dim=-1)
    right = ((features @ text.T).argmax(1) + 1 == torch.from_numpy(whole.test.labels[rows])).double().mean()
    summary = run.summary()
    for model in ("zero_shot", "global"):  # a residual is learnt class by class: novel ones have zero-shot's texts
        scores = summary[model]
        assert scores["novel"] == pytest.approx(100 * float(right))
        expected = 2 * scores["all"] * scores["novel"] / (scores["all"] + scores["novel"])
        assert scores["harmonic"] == pytest.approx(expected)
    assert summary["global"]["all"] != summary["zero_shot"]["all"]
    for command in ("show", "compare"):
        assert cli.main([command, str(run.path)]) == 0
        out = capsys.readouterr().out
        assert (
            f"base to novel, global model: base {summary['global']['all']:.1f}, novel {100 * float(right):.1f}" in out
        )


def test_a_learnt_context_is_scored_before_novel_names(tmp_path, monkeypatch):
    """The score is that of predict --classes with the novel names."""
    monkeypatch.setattr(rendered, "SHAPES_TEST", 3)
    settings = {"dataset": "shapes", "dataset_path": "", "max_per_class": 4, "num_sites": 2, "global_rounds": 1}
    settings |= {"imbalance_factor": 4, "evaluate_every": 9, "algorithm": "fedavg", "peft": "prompt"}
    run = run_tiny(tmp_path / "run", novel_classes="red circle, blue star", **settings)
    model = load_trained(run.path, classes=("red circle", "blue star"))
    split, labels = rendered.load_shapes("", 4).test, [shapes.CLASS_NAMES.index(name) for name in model.class_names]
    rows = np.flatnonzero(np.isin(split.labels, labels))
    backbone = model.experiment.kit.images_backbone
    logits = model.logits(backbone.encode_images(split.images(rows)))
    found = np.array(labels)[logits.argmax(1).numpy()]
    assert run.summary()["global"]["novel"] == pytest.approx(100 * (found == split.labels[rows]).mean())


def test_what_is_learnt_for_each_class_is_refused_before_a_round(tmp_path):
    settings = {"dataset": "shapes", "dataset_path": "", "max_per_class": 4, "num_sites": 2, "algorithm": "fedavg"}
    settings |= {"peft": "prompt", "class_specific_context": True, "imbalance_factor": 4}
    with pytest.raises(ConfigError, match="learnt context for each"):
        run_tiny(tmp_path / "run", novel_classes="red circle, blue star", **settings)


def test_seeds_are_averaged():
    runs = [{"global": {"all": a, "novel": b, "harmonic": c}} for a, b, c in ((80.0, 60.0, 68.6), (82.0, 62.0, 70.6))]
    assert novel_lines(runs) == ["base to novel, global model: base 81.0 ± 1.4, novel 61.0 ± 1.4, H 69.6 ± 1.4"]
    assert novel_lines([{"global": {"all": 80.0}, "zero_shot": None}]) == []
