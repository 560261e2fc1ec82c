"""Pictures of several runs: what they show, and which runs are refused."""

import csv
import json
import shutil
import xml.dom.minidom
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import pytest

from fedpurel_app.cli import main as cli
from fedpurel_app.core.errors import StateError
from fedpurel_app.reporting.across import PICTURES, draw_across
from fedpurel_app.reporting.methods import read_methods
from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import run_tiny

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of FedPuReL with three lambdas and of FedAvg, two seeds each; all data lie in places of their own."""
    settings: dict[str, dict[str, Any]] = {
        "fedavg": {"algorithm": "fedavg"},
        **{str(weight): {"private_weight": weight, "private_learning_rate": 0.5} for weight in (0.0, 0.5, 0.9)},
    }
    common = {"evaluate_every": 1}
    return {
        (name, seed): run_tiny(tmp_path_factory.mktemp("run"), seed=seed, **common, **changes)
        for name, changes in settings.items()
        for seed in SEEDS
    }


def paths_of(runs, *names):
    return [runs[name, seed].path for name in names for seed in SEEDS]


def drawn(picture, paths, tmp_path):
    draw_across(picture, paths, tmp_path / picture)
    with (tmp_path / f"{picture}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def painted(picture, paths):
    """Return the figure itself."""
    from matplotlib.figure import Figure

    figure = Figure()
    PICTURES[picture](read_methods(paths), figure)
    return figure


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize(
    ("picture", "names"),
    [("balancedness", ["fedavg", "0.9"]), ("sweep", ["0.0", "0.9"]), ("convergence", ["fedavg"]), ("tail", ["fedavg"])],
)
@pytest.mark.slow
def test_each_command_writes_a_picture_and_its_table(runs, tmp_path, capsys, picture, names):
    arguments = ["plot", "--across", picture, *map(str, paths_of(runs, *names)), "--out", str(tmp_path / "mine")]
    assert cli.main(arguments) == 0
    written = [tmp_path / f"mine.{ending}" for ending in ("png", "svg", "csv")]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    assert written[0].stat().st_size > 5000
    xml.dom.minidom.parse(str(written[1]))


def test_the_tail_s_line_is_the_mean_over_seeds_of_changes_from_zero_shot(runs, tmp_path):
    """The first point is of the most frequent class and its neighbours on one side."""
    rows = drawn("tail", paths_of(runs, "fedavg", "0.9"), tmp_path)
    assert {row["model"] for row in rows} == {"global"}  # FedAvg has no personalized models
    changes = []
    for seed in SEEDS:
        with (runs["0.9", seed].path / "classes.csv").open(encoding="utf-8") as file:
            classes = sorted(csv.DictReader(file), key=lambda row: -int(row["train_images"]))
        half = max(1, len(classes) // 12)
        near = [float(row["global"]) - float(row["zero_shot"]) for row in classes[: half + 1]]
        changes.append(fmean(near))
    first = next(row for row in rows if row["method"] != "fedavg" and row["rank"] == "0")
    assert float(first["change_mean"]) == pytest.approx(fmean(changes))
    assert float(first["change_sd"]) == pytest.approx(stdev(changes))
    both = drawn("tail", paths_of(runs, "0.9"), tmp_path)
    assert {row["model"] for row in both} == {"global", "personalized_at_sites"}
    figure = painted("tail", paths_of(runs, "0.9"))
    assert "zero-shot" in texts(figure)
    low, high = figure.axes[0].get_ylim()
    values = [value for axes in figure.axes for line in axes.lines for value in line.get_ydata()]
    assert low <= min(values) and max(values) <= high  # of both panels, which have one scale


def test_a_tail_needs_numbers_of_training_images(runs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(runs["0.9", 0].path, copy)
    lines = (copy / "classes.csv").read_text().splitlines()
    without = [",".join("" if place == 3 else cell for place, cell in enumerate(line.split(","))) for line in lines[1:]]
    (copy / "classes.csv").write_text("\n".join([lines[0], *without]) + "\n")
    with pytest.raises(StateError, match="numbers of training images"):
        draw_across("tail", [copy], tmp_path / "x")


def test_bars_are_means_over_seeds_and_zero_shot_is_the_reference(runs, tmp_path):
    rows = drawn("balancedness", paths_of(runs, "fedavg", "0.9"), tmp_path)
    assert [(row["method"], row["model"]) for row in rows] == [
        ("zero-shot", "zero-shot"),
        ("fedavg", "GM"),
        ("fedpurel", "GM"),
        ("fedpurel", "PM"),
    ]
    for row, (name, model) in zip(
        rows, [("0.9", "zero_shot"), ("fedavg", "global"), ("0.9", "global"), ("0.9", "personalized")], strict=True
    ):
        values = [runs[name, seed].summary()[model]["balancedness"] for seed in SEEDS]
        assert float(row["balancedness_mean"]) == pytest.approx(fmean(values))
        if model != "zero_shot":
            assert float(row["balancedness_sd"]) == pytest.approx(stdev(values))
        assert row["seeds"] == "0 1"
    figure = painted("balancedness", paths_of(runs, "fedavg", "0.9"))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx([float(row["balancedness_mean"]) for row in rows[1:]])
    assert [text for text in texts(figure) if text in ("GM", "PM")] == ["GM", "GM", "PM"]
    assert any(text.startswith("zero-shot") for text in texts(figure))
    assert "no PM" in texts(figure) and "no PM: this algorithm has no private part (fedavg)" in figure.get_supxlabel()


def test_sites_that_share_totals_have_no_bar_and_the_reason_in_its_place(tmp_path):
    folder = run_tiny(tmp_path, share_class_counts=False)
    figure = painted("balancedness", [folder.path])
    assert "no PM" in texts(figure)
    assert "no PM: the sites shared totals, not class counts" in figure.get_supxlabel().replace("\n", " ")


def test_the_sweep_is_ordered_and_holds_both_models(runs, tmp_path):
    rows = drawn("sweep", paths_of(runs, "0.9", "0.0", "0.5"), tmp_path)
    assert [float(row["private_weight"]) for row in rows] == [0.0, 0.5, 0.9] * 4
    found = set()
    for row in rows:
        name = str(float(row["private_weight"]))
        values = [runs[name, seed].summary()[row["model"]][row["classes"]] for seed in SEEDS]
        assert float(row["accuracy_mean"]) == pytest.approx(fmean(values))
        assert float(row["accuracy_sd"]) == pytest.approx(stdev(values))
        found.add((row["model"], row["classes"], row["accuracy_mean"]))
    means = [mean for model, classes, mean in found if (model, classes) == ("personalized", "all")]
    assert len(means) > 1, "lambda must matter here, or this test shows nothing"
    figure = painted("sweep", paths_of(runs, "0.9", "0.0", "0.5"))
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0", "0.5", "0.9"]
    assert texts(figure).count("personalized") == 2 and texts(figure).count("global") == 2


def test_one_seed_has_no_deviation(runs, tmp_path):
    rows = drawn("sweep", [runs[name, 0].path for name in ("0.0", "0.9")], tmp_path)
    assert {row["accuracy_sd"] for row in rows} == {""}
    assert not painted("sweep", [runs[name, 0].path for name in ("0.0", "0.9")]).axes[0].collections


def test_convergence_is_the_global_model_over_its_own_rounds(runs, tmp_path):
    rows = drawn("convergence", paths_of(runs, "fedavg", "0.9"), tmp_path)
    for name, method in (("fedavg", "fedavg"), ("0.9", "fedpurel")):
        curves = [
            [line["global"]["few"] for line in runs[name, seed].rounds() if line["phase"] != "personal"]
            for seed in SEEDS
        ]
        mine = [row for row in rows if row["method"] == method and row["classes"] == "few"]
        assert [int(row["global_round"]) for row in mine] == [0, 1, 2, 3]  # three personal rounds follow
        assert [float(row["accuracy_mean"]) for row in mine] == pytest.approx(
            [fmean(p) for p in zip(*curves, strict=True)]
        )
        assert [float(row["accuracy_sd"]) for row in mine] == pytest.approx(
            [stdev(p) for p in zip(*curves, strict=True)]
        )
    figure = painted("convergence", paths_of(runs, "fedavg", "0.9"))
    assert {"fedavg", "fedpurel", "zero-shot"} == set(texts(figure))
    assert len(figure.axes[0].collections) == 2, "a band for each method"


def test_interleaved_rounds_count_as_one(tmp_path):
    folder = run_tiny(tmp_path, schedule="interleaved", evaluate_every=1)
    rows = drawn("convergence", [folder.path], tmp_path)
    assert [int(row["global_round"]) for row in rows if row["classes"] == "all"] == [0, 1, 2, 3]


def test_names_do_not_overlap(runs):
    figure = painted("convergence", paths_of(runs, "fedavg", "0.0", "0.5", "0.9"))
    for axes in figure.axes:
        heights = sorted(text.xyann[1] for text in axes.texts)
        gaps = [high - low for low, high in pairwise(heights)]
        low, high = axes.get_ylim()
        assert len(heights) == 5 and min(gaps) > 0.05 * (high - low)


@pytest.mark.parametrize("picture", PICTURES)
def test_runs_of_other_data_are_refused(runs, tmp_path, picture):
    other = run_tiny(tmp_path, imbalance_factor=4)
    with pytest.raises(StateError, match=r"do not compare.*\nimbalance-factor: 10.* in .*, 4.* in ") as caught:
        draw_across(picture, [runs["0.9", 0].path, other.path], tmp_path / "x")
    assert str(other.path) in str(caught.value) and not list(tmp_path.glob("x.*"))


def test_other_seeds_are_refused(runs):
    with pytest.raises(StateError, match=r"different seeds.*\nfedavg: 0, 1\nfedpurel: 0$"):
        read_methods([*paths_of(runs, "fedavg"), runs["0.9", 0].path])


def test_a_run_that_is_given_twice_is_refused(runs):
    with pytest.raises(StateError, match=r"fedavg, seed 1, is there twice.* leave one out"):
        read_methods([*paths_of(runs, "fedavg"), runs["fedavg", 1].path])


def test_another_partition_is_refused(runs, tmp_path):
    shutil.copytree(runs["0.9", 0].path, tmp_path / "other")
    content = json.loads((tmp_path / "other" / "partition.json").read_text())
    (tmp_path / "other" / "partition.json").write_text(json.dumps(content | {"sha256": "0"}))
    with pytest.raises(StateError, match="hold other parts of the data"):
        read_methods([runs["fedavg", 0].path, tmp_path / "other"])


def test_what_is_no_completed_run_is_refused(runs, tmp_path):
    with pytest.raises(StateError, match="is not a run folder"):
        read_methods([runs["fedavg", 0].path, tmp_path])
    cut = RunFolder.create(tmp_path / "cut")
    cut.write_json("config.json", runs["fedavg", 1].read_json("config.json"))
    with pytest.raises(StateError, match="is not completed: resume it first"):
        read_methods([runs["fedavg", 0].path, cut.path])


def test_a_sweep_needs_lambdas_private_branches_and_nothing_else(runs, tmp_path):
    with pytest.raises(StateError, match=r"have private-weight = 0.9; a sweep needs two or more"):
        draw_across("sweep", paths_of(runs, "0.9"), tmp_path / "x")
    with pytest.raises(StateError, match=r"differ in algorithm.*; a sweep needs runs that differ in private-weight"):
        draw_across("sweep", paths_of(runs, "0.9", "fedavg"), tmp_path / "x")
    flat = [
        run_tiny(tmp_path / str(weight), personal_rounds=0, private_weight=weight, evaluate_every=1).path
        for weight in (0.1, 0.2)
    ]
    with pytest.raises(StateError, match=r'no "all" of personalized models \('):
        draw_across("sweep", flat, tmp_path / "x")


def test_convergence_needs_two_evaluations(runs, tmp_path):
    shutil.copytree(runs["fedavg", 0].path, tmp_path / "short")
    folder = RunFolder(tmp_path / "short")
    folder.drop_rounds_after(0)
    with pytest.raises(StateError, match='has 1 evaluations of the global model with "all"'):
        draw_across("convergence", [folder.path], tmp_path / "x")


def test_a_place_that_cannot_be_written_is_named(runs, tmp_path):
    with pytest.raises(StateError, match=r"x\.\* cannot be written .* choose another --out"):
        draw_across("convergence", paths_of(runs, "fedavg"), tmp_path / "absent" / "x")
