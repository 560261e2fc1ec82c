"""What people see of finished runs: tables, lines and pictures."""

import csv
import json
import shutil
import time
import xml.dom.minidom

import pytest
from rich.console import Console

from fedpurel_app.core.errors import StateError
from fedpurel_app.reporting.columns import number
from fedpurel_app.reporting.compare import compare
from fedpurel_app.reporting.console import duration, round_line, show_lines
from fedpurel_app.reporting.live import LiveView
from fedpurel_app.reporting.plots import draw
from fedpurel_app.reporting.recorder import flat_numbers
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.summary import summarize_run, time_by_part
from tests.support import run_tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of two methods with two seeds each."""
    folders = {}
    for algorithm in ("fedpurel", "fedavg"):
        for seed in (0, 1):
            place = tmp_path_factory.mktemp("run")
            folders[algorithm, seed] = run_tiny(place, algorithm=algorithm, seed=seed, imbalance_factor=4)
    return folders


@pytest.fixture(scope="module")
def drawn(runs):
    """Return the pictures of a run of each method, drawn once."""
    return {algorithm: draw(runs[algorithm, 0]) for algorithm in ("fedpurel", "fedavg")}


def scores(value):
    return dict.fromkeys(("all", "many", "medium", "few", "balancedness"), value)


def line(number, phase="global", value=None, **more):
    base = {
        "round": number,
        "phase": phase,
        "total_rounds": 4,
        "cohort": ["a", "b"],
        "usable": ["a"],
        "dropped": [["b", "CUDA out of memory\nmore"]],
        "kept_old_model": False,
        "train": {"loss": 1.5, "conflict": 0.25},
        "bytes_up": 10,
        "bytes_down": 20,
        "seconds": {"total": 2.0, "training": 1.5, "training_at_sites": 1.0, "training_features": 0.25},
    }
    if value is not None:
        base |= {"global": scores(value), "sites": {"global": scores(value), "personalized": scores(value + 1)}}
    return base | more


def test_a_round_is_one_line():
    text = round_line(line(3, value=70.0), eta=75)
    for part in ("[3/4 global  ]", "loss 1.500", "conflict 25%", "global 70.0", "70.0 -> 71.0", "1/2 sites", "2.0 s"):
        assert part in text
    assert "(b: CUDA out of memory)" in text and "eta 1 min 15 s" in text and "\n" not in text


def test_where_nobody_has_a_model_of_its_own_there_is_one_number():
    text = round_line(line(3, sites={"global": scores(70.0), "personalized": scores(70.0)}))
    assert "at sites 70.0  " in text and "personal" not in text


def test_what_does_not_exist_is_a_dash():
    assert number(None) == "–"
    assert "few –" in round_line(line(1, **{"global": scores(None) | {"all": 5.0}}))


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "5 s"), (65, "1 min 05 s"), (3700, "1 h 01 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


SETTINGS = {
    "algorithm": "fedpurel",
    "peft": "prompt",
    "dataset": "shapes",
    "seed": 1,
    "balancedness-power": 1.0,
    "balancedness-sigma": 0.1,
}


def summarize(rounds):
    return summarize_run(rounds, SETTINGS, "completed", None, has_private_part=True, seconds=10.0)


def test_summary_takes_last_best_and_mean():
    """The mean is over the last ten rounds of the phase that trains a model: no start, no repeats."""
    values = {1: 90.0, 5: 60.0, 10: 80.0, 12: 70.0}
    rounds = [line(0, "start", value=99.0, zero_shot=scores(50.0))]
    rounds += [line(number, value=values.get(number)) for number in range(1, 13)]
    rounds += [line(13, "personal", value=70.0), line(14, "personal", value=74.0)]
    found = summarize(rounds)
    assert found["zero_shot"]["all"] == 50 and found["global"]["all"] == 74 and found["personalized"]["all"] == 75
    assert found["best_on_test"]["global"] == {"round": 1, **scores(90.0)}
    assert found["best"] is None and "validation-share = 0" in found["reasons"]["best"]
    assert found["mean_of_last_10"]["global"]["all"] == 70  # of 60, 80 and 70
    assert found["mean_of_last_10"]["personalized"]["all"] == 73
    assert (found["rounds"], found["dropped_replies"], found["bytes_up"], found["bytes_down"]) == (14, 14, 140, 280)
    assert found["seconds"]["total"] == 10 and found["algorithm"] == "fedpurel" and found["outcome"] == "completed"


def test_groups_without_a_class_have_a_reason():
    found = summarize([line(1, value=60.0, **{"global": scores(60.0) | {"many": None}})])
    assert found["reasons"]["global.many"] == "no class of this group has a test image"
    assert "no evaluation" not in str(found["reasons"].get("global_at_sites"))


def test_time_by_part_adds_up():
    parts = time_by_part([line(1), line(2)], total=10.0)
    assert parts["training"] == 1.5 and parts["features"] == 0.5 and parts["flower"] == 1.0
    assert sum(parts.values()) == pytest.approx(10.0)


def test_numbers_for_trackers_are_flat():
    flat = flat_numbers(line(1, value=60.0))
    assert flat["global/few"] == 60 and flat["sites/personalized/all"] == 61 and "kept_old_model" not in flat


def test_pictures_name_their_run_and_have_numbers_for_labels(runs):
    """And all marks are in the legend: lines, dots and the grey area of the picture of classes."""
    from fedpurel_app.reporting import plots

    folder, figure = runs["fedpurel", 0], plots.pyplot().figure()
    assert plots.classes(folder, figure)
    plots._name(folder, figure)
    figure.canvas.draw()
    labels = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels() + axes.get_xticklabels()]
    assert any(labels) and not any("$" in text or "math" in text for text in labels)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert {"one class", "training images (right)", "zero-shot", "global model"} <= set(legend)
    assert (
        "fedpurel, text-residual on features" in figure.get_supxlabel() and folder.path.name in figure.get_supxlabel()
    )


def test_compare_averages_seeds_and_writes_the_table(runs, tmp_path):
    lines = compare([run.path for run in runs.values()], tmp_path / "table")
    zero_shot, ours, average = (tmp_path / "table.md").read_text().splitlines()[2:5]
    assert zero_shot.startswith("| zero-shot, features | 2 |")
    assert ours.startswith("| fedpurel, text-residual, features | 2 |") and " ± " in ours
    assert average.split("|")[-2].strip() == "–"
    assert lines[-1] == f"written: {tmp_path}/table.csv, {tmp_path}/table.md"
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = [runs["fedavg", seed].summary()["global"]["few"] for seed in (0, 1)]
    assert float(rows[2]["GM few mean"]) == pytest.approx(sum(values) / 2, abs=1e-4)
    assert float(rows[2]["GM few sd"]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5, abs=1e-4)
    assert rows[2]["seeds"] == "0 1"


@pytest.mark.parametrize("columns", ["80", "140"])
def test_compare_prints_a_table_that_fits_and_writes_nothing_by_itself(runs, tmp_path, monkeypatch, columns):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", columns)
    lines = compare([run.path for run in runs.values()])
    table = lines[: lines.index(next(line for line in lines if line.startswith("in %")))]
    assert max(map(len, table)) <= int(columns) and list(tmp_path.iterdir()) == []
    (head,), few = ([line for line in table if "balanced" in line], runs["fedavg", 0].summary()["global"]["few"])
    mean = (few + runs["fedavg", 1].summary()["global"]["few"]) / 2
    assert "fedavg, text-residual, features (2 seeds)" in table and "few" in head
    assert any(" GM " in line and f"{mean:.1f} ±" in line for line in table)
    assert any(" PM " in line for line in table)


def test_compare_keeps_settings_apart_and_names_what_differs(runs, tmp_path):
    other = run_tiny(tmp_path, algorithm="fedpurel", imbalance_factor=4, momentum=0.5)
    compare([*(run.path for run in runs.values()), other.path], tmp_path / "table")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert any("momentum 0.5 | 1 |" in line for line in lines) and any("momentum 0.9 | 2 |" in line for line in lines)


def test_compare_averages_over_runs_of_before_a_key_was_there(runs, tmp_path):
    shutil.copytree(runs["fedavg", 1].path, tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    content = json.loads(path.read_text())
    for key in ("ditto-weight", "mixing-weight", "text-weight"):
        del content["config"][key]
    path.write_text(json.dumps(content | {"config": content["config"] | {"penalty-weight": 9.0}}))
    lines = compare([runs["fedavg", 0].path, tmp_path / "old"])
    assert "fedavg, text-residual, features (2 seeds)" in lines


def test_compare_tells_runs_apart_whose_data_differ_at_one_path(runs, tmp_path):
    other = shutil.copytree(runs["fedavg", 0].path, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "data": "f" * 64}))
    lines = compare([runs["fedavg", 0].path, other])
    rows = [line for line in lines if line.startswith("fedavg, text-residual, features, data ")]
    assert len(set(rows)) == 2 and any("data ffffffff" in row or "data fffffff" in row for row in rows)


def test_compare_leaves_out_what_is_not_completed(runs, tmp_path):
    cut = RunFolder.create(tmp_path / "cut")
    cut.write_json("config.json", runs["fedavg", 0].read_json("config.json"))
    lines = compare([runs["fedavg", 0].path, cut.path, tmp_path], tmp_path / "table")
    assert any(line.startswith(f"left out: {cut.path} holds a run that is not completed") for line in lines)
    assert f"left out: {tmp_path} is not a run folder: it has no config.json." in lines
    with pytest.raises(StateError, match="nothing to compare"):
        compare([cut.path], tmp_path / "table")
    with pytest.raises(StateError, match=r"table.csv cannot be written .* choose another --out"):
        compare([runs["fedavg", 0].path], tmp_path / "absent" / "table")


def test_compare_counts_a_seed_once_and_a_long_tail_by_itself(runs, tmp_path):
    (tmp_path / "again").mkdir()
    (tmp_path / "milder").mkdir()
    again = run_tiny(tmp_path / "again", algorithm="fedavg", seed=0, imbalance_factor=4)
    milder = run_tiny(tmp_path / "milder", algorithm="fedavg", seed=0, imbalance_factor=2)
    lines = compare([runs["fedavg", 0].path, again.path, milder.path], tmp_path / "table")
    assert f"left out, a later run has the same settings and seed: {runs['fedavg', 0].path}" in lines
    rows = (tmp_path / "table.md").read_text().splitlines()
    titles = [row.split("|")[1].strip() for row in rows if row.startswith("| ")][1:]
    assert titles == [
        f"{name}, imbalance-factor {factor:.1f}"
        for name in ("zero-shot, features", "fedavg, text-residual, features")
        for factor in (4, 2)
    ]


def test_all_pictures_are_drawn(drawn):
    paths = drawn["fedpurel"]
    diagnostics = ("balance", "contribution", "gradients")
    expected = {f"{n}.{e}" for n in ("calibration", "classes", "curves", "sites", *diagnostics) for e in ("png", "svg")}
    assert {path.name for path in paths} == expected | {f"{name}.csv" for name in diagnostics}
    for path in paths:
        assert path.stat().st_size > (5000 if path.suffix != ".csv" else 20)
        if path.suffix == ".svg":
            xml.dom.minidom.parse(str(path))


def test_a_method_without_a_private_part_has_no_picture_of_gains(drawn):
    assert {path.stem for path in drawn["fedavg"]} == {"calibration", "classes", "curves", "balance", "gradients"}


def test_tables_of_diagnostics_hold_what_the_rounds_say(runs, drawn):
    folder = runs["fedpurel", 0]
    rows = folder.read_csv("plots/gradients.csv")
    trained = [line["train"] for line in folder.rounds() if line["phase"] == "global"]
    assert [float(row["angle"]) for row in rows] == pytest.approx([line["angle"] for line in trained], rel=1e-3)
    assert all(row["angle"] == "" for row in runs["fedavg", 0].read_csv("plots/gradients.csv"))
    scored = [line for line in folder.rounds() if line.get("global") and line["phase"] != "personal"]
    assert [float(row["tkl"]) for row in folder.read_csv("plots/balance.csv")] == pytest.approx(
        [line["tkl"] for line in scored], rel=1e-3
    )
    classes = {row["name"]: row for row in folder.read_csv("classes.csv")}
    for row in folder.read_csv("plots/contribution.csv"):
        gain = float(classes[row["class"]]["personalized_at_sites"]) - float(classes[row["class"]]["global"])
        assert float(row["gain"]) == pytest.approx(gain, abs=1e-3)


def test_there_is_nothing_to_draw_before_the_first_evaluation(tmp_path):
    with pytest.raises(StateError, match="nothing to draw"):
        draw(RunFolder.create(tmp_path / "run"))


def test_show_tells_the_outcome_and_where_time_went(runs):
    text = "\n".join(show_lines(runs["fedpurel", 0]))
    for part in ("fedpurel, text-residual on features", "completed, 6 rounds", "zero-shot", "at the server: start-up"):
        assert part in text
    assert "this algorithm has no private part" in "\n".join(show_lines(runs["fedavg", 0]))


def test_show_tells_how_to_go_on_with_a_run_that_was_cut_off(runs, tmp_path):
    cut = RunFolder.create(tmp_path / "cut")
    cut.write_json("config.json", runs["fedpurel", 0].read_json("config.json"))
    assert f"fedpurel run --resume {cut.path}" in "\n".join(show_lines(cut))


def encoding(text):
    return json.dumps({"text": text, "event": "encoding"})


@pytest.mark.parametrize("terminal", [False, True])
def test_the_live_view_tells_how_far_images_are_encoded(runs, tmp_path, monkeypatch, terminal):
    folder, clock = RunFolder.create(tmp_path / "run"), [0.0]
    folder.log.parent.mkdir()
    folder.log.write_text(
        f"INFO :      {encoding('256 of 900 images, 9.9 min left')}\n"
    )  # of an attempt that was interrupted
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    console = Console(record=True, width=200, force_terminal=terminal)
    with LiveView(console) as view:
        view.update(folder)
        for clock[0], line in (
            (10, f"\x1b[92mINFO \x1b[0m:      {encoding('Encoding 900 images once with ViT-B-16 ...')}"),
            (20, f"(ClientAppActor pid=7) INFO :      {encoding('512 of 900 images, 2.0 min left')}"),
            (30, "INFO :      the server says something else"),
            (80, f"INFO :      {encoding('768 of 900 images, 1.0 min left')}"),
        ):
            with folder.log.open("a") as log:
                log.write(line + "\n")
            view.update(folder)
            view.update(folder)
    shown = console.export_text()
    assert "1.0 min left" in shown and "9.9" not in shown and "something" not in shown
    if not terminal:  # a line a minute, instead of one for each that the log has
        assert shown.splitlines() == ["Encoding 900 images once with ViT-B-16 ...", "768 of 900 images, 1.0 min left"]


def test_words_of_a_log_are_no_markup_and_reach_no_terminal_raw(runs, tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.log.parent.mkdir()
    folder.log.write_text("")
    console = Console(record=True, width=200, force_terminal=True)
    with LiveView(console) as view:
        view.update(folder)
        with folder.log.open("a") as log:
            for text in ("[/x] images", "\x1b]0;title\x07 images", "[red]images"):
                log.write(f"INFO :      {encoding(text)}\n")
            log.write('INFO :      {"text": "", "event": "run-folder", "path": "/x\\nrun: fake"}\n')
        view.update(folder)
    assert "\x1b]0;title" not in console.export_text(styles=True)


def test_the_live_view_shows_each_round_once(runs, tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    console = Console(record=True, width=200, force_terminal=False)
    with LiveView(console) as view:
        for entry in runs["fedpurel", 0].rounds():
            folder.append_round(entry)
            view.update(folder)
            view.update(folder)
    shown = console.export_text().splitlines()
    assert len(shown) == 7 and shown[0].startswith("[start]") and shown[6].startswith("[6/6 personal]")
