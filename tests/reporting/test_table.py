"""Tables of sweeps: whose numbers they show, what they leave blank and what they refuse."""

import csv
import json
import re
import xml.dom.minidom
from itertools import pairwise

import pytest

from fedpurel_app.cli import main as cli
from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.reporting.leaderboard.board import SCORES, all_columns, make_board
from fedpurel_app.reporting.leaderboard.document import Cell, Grid, board_notes, differences_grid, scores_grid
from fedpurel_app.reporting.leaderboard.in_terminal import grid_lines
from fedpurel_app.reporting.leaderboard.layouts import escaped
from fedpurel_app.reporting.leaderboard.picture import painted
from fedpurel_app.reporting.leaderboard.published import find_published
from fedpurel_app.reporting.leaderboard.sweep import read_sweep
from fedpurel_app.reporting.leaderboard.table import write_table
from fedpurel_app.reporting.plots import pyplot
from tests.reporting.sweeps import AT, AXES, cell, scores, write_plan, write_run, write_sweep

SETTINGS = {
    "FedAvg": {"algorithm": "fedavg"},
    "ProGrad": {"algorithm": "prograd"},
    "FedPuReL": {"algorithm": "fedpurel"},
}
TABLE = {
    "FedAvg": dict.fromkeys(range(6), 60.0),
    "ProGrad": dict.fromkeys(range(6), 59.0),
    "FedPuReL": {seed: 61.0 + seed for seed in range(6)},  # 63.5 ± 1.87
}
CIFAR = {"dataset": "cifar100", "peft": "prompt", "backbone": "ViT-B-16", "imbalance-factor": 100.0, "alpha": 1.0,
         "partition": "dirichlet"}  # fmt: skip


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path / "sweep", TABLE, SETTINGS)


def board_of(path, against="FedAvg", names=("all", "ece")):
    (place,) = read_sweep(path).places
    return make_board(place, against, all_columns(("global", "personalized"), names))


def texts(grid):
    return {row[0].text: [cell.text for cell in row[1:]] for row in grid.rows}


def bold(grid):
    return {
        (row[0].text, title) for row in grid.rows for title, cell in zip(grid.header, row, strict=True) if cell.bold
    }


def lines_of(path):
    with path.open(encoding="utf-8") as file:
        return {(row["method"], row["model"], row["score"]): row for row in csv.DictReader(file)}


def test_rows_are_zero_shot_then_the_methods_and_personalized_ones_without_a_branch_are_global(sweep):
    """The deviation of 61 to 66 is sqrt(3.5)."""
    grid = scores_grid(board_of(sweep), board_of(sweep).columns)
    assert grid.header == ("method", "n", "GM All", "GM ECE", "PM All", "PM ECE", "s", "MB")
    assert list(texts(grid).items()) == [
        ("zero-shot", ["6", "50.0 ± 0.0", "50.0 ± 0.0", "40.0 ± 0.0", "40.0 ± 0.0", "–", "–"]),
        ("FedAvg", ["6", "60.0 ± 0.0", "60.0 ± 0.0", "50.0 ± 0.0†", "50.0 ± 0.0†", "8", "3.00"]),
        ("ProGrad", ["6", "59.0 ± 0.0", "59.0 ± 0.0", "49.0 ± 0.0†", "49.0 ± 0.0†", "8", "3.00"]),
        ("FedPuReL", ["6", "63.5 ± 1.9", "63.5 ± 1.9", "68.5 ± 1.9", "68.5 ± 1.9", "8", "3.00"]),
    ]


def test_the_best_mean_is_bold_and_of_calibration_errors_the_lowest(sweep):
    board = board_of(sweep)
    assert bold(scores_grid(board, board.columns)) == {
        ("FedPuReL", "GM All"),
        ("FedPuReL", "PM All"),
        ("zero-shot", "GM ECE"),
        ("zero-shot", "PM ECE"),
    }


def test_differences_are_paired_tested_and_corrected(sweep):
    """Six differences of one sign: p = 2 / 2^6 for each of three comparisons, so 3 / 32 after Holm."""
    write_table(sweep)
    one = lines_of(sweep / "table.csv")["FedPuReL", "global", "all"]
    assert (one["difference"], one["pairs"], one["wins"], one["losses"], one["against"]) == (
        "3.5",
        "6",
        "6",
        "0",
        "FedAvg",
    )
    assert float(one["p"]) == 2 / 64 and float(one["p_holm"]) == pytest.approx(6 / 64)
    assert 1.0 < float(one["low"]) < 3.5 < float(one["high"]) < 6.0
    worse = lines_of(sweep / "table.csv")["ProGrad", "personalized", "all"]
    assert [worse[name] for name in ("difference", "low", "high", "wins", "losses")] == ["-1", "-1", "-1", "0", "6"]
    assert lines_of(sweep / "table.csv")["FedAvg", "global", "all"]["difference"] == ""
    notes = " ".join(board_notes(board_of(sweep)))
    assert "Bootstrap intervals of 6 seeds are too narrow" in notes
    assert "With 6 pairs of seeds and 3 comparisons no corrected p is below 0.094" in notes


def test_a_significant_difference_is_bold(tmp_path):
    """Eight of one sign against one other row beside zero-shot: 2 / 2^8 twice is below 0.05."""
    table = {"FedAvg": dict.fromkeys(range(8), 60.0), "FedPuReL": {seed: 61.0 + seed for seed in range(8)}}
    board = board_of(write_sweep(tmp_path, table, SETTINGS), names=("all",))
    grid = differences_grid(board, [("global", "all")])
    assert bold(grid) == {("zero-shot", "GM All"), ("FedPuReL", "GM All")}
    assert grid.rows[1][2].in_one_line.startswith("+4.50 [+") and grid.rows[1][2].below == "p 0.016, 8:0"
    assert "no corrected p" not in " ".join(board_notes(board))


def test_zero_shot_can_be_what_others_are_compared_with(sweep, tmp_path):
    write_table(sweep, against="ZERO-SHOT", stem=tmp_path / "x")
    assert lines_of(tmp_path / "x.csv")["FedAvg", "personalized", "few"]["difference"] == "10"


def test_scores_by_seed_are_written_for_whoever_computes_other_statistics(sweep):
    write_table(sweep)
    with (sweep / "table-seeds.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [*AXES, "method", "model", "scored", "seed", *SCORES]
    found = {(line["method"], line["model"], line["scored"], line["seed"]): line["few"] for line in lines}
    assert len(found) == len(lines) == 4 * 2 * 6
    assert (
        found["FedPuReL", "global", "global", "2"] == "63"
        and found["FedPuReL", "personalized", "personalized", "2"] == "68"
    )
    assert found["FedAvg", "personalized", "global_at_sites", "5"] == "50"
    assert found["zero-shot", "global", "zero_shot", "5"] == "50"


def test_what_tuning_chose_is_told_with_its_rule(tmp_path):
    settings = {name: {**one, "learning-rate": 0.3 if name == "FedAvg" else 0.1} for name, one in SETTINGS.items()}
    settings["Frozen"] = {"algorithm": "zero-shot", "learning-rate": 0.1}
    table = {**TABLE, "Frozen": {0: 50.0}}
    path = write_sweep(tmp_path / "sweep", table, settings, tuned={"rule": "best mean all", "keys": ["learning-rate"]})
    write_table(path)
    expected = "Chosen by best mean all, learning-rate 0.3: FedAvg; 0.1: ProGrad, FedPuReL."
    assert expected in (path / "table.md").read_text()


def test_the_command_writes_six_files_and_prints_what_fits(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["table", str(sweep), "--against", "fedavg", "--out", str(tmp_path / "mine")]
    assert cli.main([*arguments, "--scores", "all", "few", "nll", "--models", "global"]) == 0
    out = capsys.readouterr().out
    *lines, written = out.splitlines()
    assert written == f"written: {tmp_path / 'mine'}{{.md,.csv,-seeds.csv,.tex,.png,.svg}}"
    assert max(map(len, lines)) <= 80 and "demo, prompt, alpha 1" in out and "FedPuReL" in out
    assert "PM" not in lines_of(tmp_path / "mine.csv") and "GM NLL" in (tmp_path / "mine.md").read_text()
    assert (tmp_path / "mine.png").stat().st_size > 5000
    xml.dom.minidom.parse(str(tmp_path / "mine.svg"))
    text = (tmp_path / "mine.md").read_text()
    assert "Abacus 3000, 2 cores" in text and "18 of 18 completed, 2 min" in text and "6 seeds: 0-5" in text
    assert text.startswith("# By hand\n") and "fedpurel sweep by-hand.toml; fedpurel table sweep" in text


def test_the_same_sweep_makes_the_same_files(sweep):
    endings = (".md", ".csv", "-seeds.csv", ".tex", ".png", ".svg")
    write_table(sweep)
    before = [(sweep / f"table{ending}").read_bytes() for ending in endings]
    write_table(sweep)
    assert [(sweep / f"table{ending}").read_bytes() for ending in endings] == before


def test_missing_cells_are_named_with_why(sweep):
    cells = [cell(method, seed) for method in TABLE for seed in range(8)]
    write_run(
        sweep / "runs" / "fedavg-s6", {"algorithm": "fedavg", "seed": 6}, {"outcome": "failed", "error": "no\nway"}
    )
    write_run(sweep / "runs" / "prograd-s6", {"algorithm": "prograd", "seed": 6}, {})
    (sweep / "runs" / "prograd-s6" / "summary.json").unlink()
    (sweep / "runs" / "prograd-s5" / "summary.json").write_text("{")
    write_plan(sweep, list(TABLE), cells)
    notes = "\n".join(board_notes(board_of(sweep)))
    assert "Missing, failed: no: FedAvg, seed 6" in notes
    assert "Missing, not finished: ProGrad, seed 6" in notes
    assert "Missing, not run yet: FedAvg, seed 7; ProGrad, seed 7; FedPuReL, seed 6, 7" in notes
    assert re.search(r"Missing, .*summary.json: .*: ProGrad, seed 5", notes)
    assert "other numbers of seeds" in notes
    assert texts(scores_grid(board_of(sweep), [("global", "all")]))["ProGrad"][:2] == ["5", "59.0 ± 0.0"]


def test_one_common_seed_is_a_dash_with_the_reason(tmp_path):
    path = write_sweep(tmp_path, {"FedAvg": {0: 60.0, 1: 61.0}, "FedPuReL": {1: 62.0, 2: 70.0}}, SETTINGS)
    board = board_of(path)
    assert texts(differences_grid(board, [("global", "all")]))["FedPuReL"] == ["1", "–"]
    assert texts(scores_grid(board, [("global", "all")]))["zero-shot"][0] == "3", "it needs no method's run"
    assert any(note == "Not compared, 1 common seed; a comparison needs 2: FedPuReL." for note in board_notes(board))


def test_seeds_with_other_parts_of_the_data_are_no_pairs(sweep):
    path = sweep / "runs" / "fedpurel-s5" / "partition.json"
    path.write_text(json.dumps({"schema": 1, "sha256": "other"}))
    board = board_of(sweep)
    compared = {row.name: row.comparisons for row in board.rows}["FedPuReL"]["global", "all"]
    assert (compared.pairs, compared.difference) == (5, 3.0)  # 1 to 5, without the 6 of seed 5
    assert any("FedPuReL is not compared at seeds 5" in note for note in board.notes)


def test_an_unknown_score_is_a_dash_with_the_run_s_own_reason(sweep):
    for seed in range(6):
        path = sweep / "runs" / f"fedpurel-s{seed}" / "summary.json"
        summary = json.loads(path.read_text())
        summary["personalized"]["ece"] = None
        summary["reasons"] = {"personalized.ece": "most sites sent no confidences"}
        path.write_text(json.dumps(summary))
    board = board_of(sweep)
    assert texts(scores_grid(board, [("personalized", "ece")]))["FedPuReL"][1] == "–"
    assert "–, most sites sent no confidences: FedPuReL PM ECE." in board_notes(board)


def test_cells_may_share_a_run(tmp_path):
    """FedAvg has no use for alpha here, so one run stands at both places and counts once in the time."""
    axes = {**AXES, "alpha": [1.0, 0.1]}
    write_run(tmp_path / "runs" / "one", {"algorithm": "fedavg", "seed": 0}, {"global": scores(60.0)})
    cells = [cell("FedAvg", 0, "one", {**AT, "alpha": alpha}) for alpha in axes["alpha"]]
    left = [{"method": "FedAvg", "at": {**AT, "alpha": 0.1}, "why": "no_reason & more"}]
    write_plan(tmp_path, ["FedAvg"], cells, axes=axes, left_out=left)
    out = "\n".join(write_table(tmp_path))
    assert "demo, prompt, alpha 1\n" in out and "demo, prompt, alpha 0.1\n" in out
    assert "Runs: 1 of 1 completed, 8 s" in out
    assert "Left out, no_reason & more: FedAvg (demo, prompt, alpha 0.1)" in out
    assert r"no\_reason \& more" in (tmp_path / "table.tex").read_text()
    assert not (tmp_path / "table.png").exists(), "one seed compares nothing"


def test_a_place_without_a_run_has_no_table_and_is_named(sweep):
    axes = {**AXES, "alpha": [1.0, 0.1]}
    cells = [cell(method, seed) for method in TABLE for seed in range(6)]
    cells.append(cell("FedAvg", 0, "elsewhere", {**AT, "alpha": 0.1}))
    write_plan(sweep, list(TABLE), cells, axes=axes)
    assert "No table yet, demo, prompt, alpha 0.1: 1 runs not run yet" in "\n".join(write_table(sweep))


def test_a_sweep_s_own_zero_shot_has_one_row_and_its_name(tmp_path):
    settings = {**SETTINGS, "Frozen": {"algorithm": "zero-shot"}}
    table = {"FedAvg": {0: 60.0, 1: 61.0, 2: 62.0}, "Frozen": {0: 50.0}}
    board = board_of(write_sweep(tmp_path, table, settings), against="Frozen")
    grid = texts(scores_grid(board, [("global", "all")]))
    assert list(grid) == ["Frozen", "FedAvg"] and grid["Frozen"] == ["3", "50.0 ± 0.0", "8", "3.00"]
    assert board.rows[1].comparisons["global", "all"].difference == 11.0


def test_a_table_of_validation_data_says_so(tmp_path):
    (test,) = read_sweep(write_sweep(tmp_path / "a", {"FedAvg": {1: 60.0}}, SETTINGS)).places
    settings = {"FedAvg": {**SETTINGS["FedAvg"], "evaluate-on": "validation"}}
    (validation,) = read_sweep(write_sweep(tmp_path / "b", {"FedAvg": {1: 60.0}}, settings)).places
    assert "scored on validation data" in validation.setting and "validation" not in test.setting
    for path, kind in ((tmp_path / "a", "test"), (tmp_path / "b", "validation")):
        write_table(path)
        assert f"on the server's balanced {kind} set" in (path / "table.md").read_text()


def test_published_numbers_stand_below_a_method_with_their_settings(tmp_path):
    table = {"FedAvg": {0: 60.0, 1: 60.0}, "FedPuReL": {0: 69.0, 1: 70.0}}
    settings = {name: {**CIFAR, **SETTINGS[name], "num-sites": 8} for name in table}
    path = write_sweep(tmp_path, table, settings)
    grid = texts(scores_grid(board_of(path), [("global", "all"), ("personalized", "all"), ("global", "ece")]))
    assert grid["published: FedPuReL"] == ["", "69.77", "73.37", "–", "", ""]
    assert grid["published: zero-shot"] == ["", "64.82", "–", "–", "", ""] and "published: FedAvg" not in grid
    notes = "\n".join(board_notes(board_of(path)))
    assert "Published, FedPuReL: FedPuReL, CVPR 2026, arXiv 2605.02247, with num-sites 20, here 8" in notes
    write_table(path)
    assert lines_of(path / "table.csv")["FedPuReL", "personalized", "all"]["published"] == "73.37"


@pytest.mark.parametrize(
    "change",
    [{"alpha": 0.3}, {"peft": "lora"}, {"backbone": "ViT-B-32"}, {"imbalance-factor": 50.0}, {"dataset": "cifar10"},
     {"private-weight": 0.5}, {"projection-scope": "tensor"}, {"balancer": "fed-grab"}, {"algorithm": "fedavg"},
     {"partition": "iid"}, {"align-loss": "none"}, {"zero-shot-weight": 0.3}],
)  # fmt: skip
def test_nothing_was_published_of_other_settings(change):
    settings = {**CIFAR, "algorithm": "fedpurel", "balancer": "none", "align-loss": "tkl", "private-weight": 0.9}
    assert find_published(settings) is not None
    assert find_published({**settings, **change}) is None


def test_the_ablation_that_was_published_is_found():
    settings = {**CIFAR, "algorithm": "fedpurel", "balancer": "none", "align-loss": "kl", "private-weight": 0.9}
    found = find_published(settings)
    assert found is not None and found.scores == {"global": {"all": 67.92}, "personalized": {"all": 71.62}}


def test_latex_is_escaped_and_its_lines_have_equal_cells(tmp_path):
    name = "[Fed_Avg & 50 % #1 {$x^2$} ~ \\n Ω"
    path = write_sweep(tmp_path, {name: {0: 60.0, 1: 61.0}}, {name: {"algorithm": "fedavg"}})
    (tmp_path / "runs" / f"{name.lower()}-s0").rename(tmp_path / "runs" / "a0")
    (tmp_path / "runs" / f"{name.lower()}-s1").rename(tmp_path / "runs" / "a1")
    write_plan(path, [name], [cell(name, 0, "a0"), cell(name, 1, "a1")])
    write_table(path)
    text = (path / "table.tex").read_text()
    shown = r"[Fed\_Avg \& 50 \% \#1 \{\$x\textasciicircum{}2\$\} \textasciitilde{} \textbackslash{}n ?"
    assert escaped(name) == shown and f"\n{{}}{shown}" in text and text.isascii()
    tables = re.findall(r"\\begin{tabular}{(l[r]+)}\n(.*?)\\end{tabular}", text, re.DOTALL)
    assert len(tables) == 3
    for columns, body in tables:
        _, *lines = [line for line in body.splitlines() if line != r"\hline"]  # the first spans columns
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}
    assert r"\multicolumn{2}{c}{} & \multicolumn{6}{c}{GM} & \multicolumn{6}{c}{PM} & \multicolumn{2}{c}{} \\" in text
    assert r"\textbf{" in text and text.count(r"\begin{table}[") == 3


def test_names_are_cut_in_their_middle_and_columns_go_below_where_a_line_is_full(sweep):
    grid = Grid("x", ("method", "n", "one"), ((Cell("FedPuReL, lambda 0.25"), Cell("12"), Cell("60.0 ± 0.1", True)),))
    assert grid_lines(grid, 30) == ["method           n         one", "FedPuRe…da 0.25 12 *60.0 ± 0.1"]
    assert grid_lines(grid, 26) == [
        "method                 n",
        "FedPuReL, lambda 0.25 12",
        "method                        one",
        "FedPuReL, lambda 0.25 *60.0 ± 0.1",
    ]


def test_the_setting_of_a_table_is_told_in_words(tmp_path):
    table = {"FedAvg": {0: 60.0}, "FedPuReL": {0: 69.0}}
    settings = {name: {**SETTINGS[name], "num-sites": 12, "global-rounds": 30} for name in table}
    assert read_sweep(write_sweep(tmp_path, table, settings)).places[0].setting == (
        "prompt on shapes, IF 100, dirichlet alpha 1, 12 sites, 40 % of them a round, 30 global rounds, "
        "30 personal rounds"
    )


def test_bad_input_is_one_clear_error(sweep, tmp_path, capsys):
    with pytest.raises(
        ConfigError, match=r'this sweep has FedAvg, ProGrad, FedPuReL, zero-shot\. Did you mean "FedPuReL"'
    ):
        write_table(sweep, against="FedPurl")
    with pytest.raises(ConfigError, match=r"unknown score fews: choose among all, many"):
        write_table(sweep, scores=["fews"])
    with pytest.raises(StateError, match="is no folder"):
        write_table(tmp_path / "absent")
    with pytest.raises(StateError, match=r"is no sweep: it has no plan.json"):
        write_table(tmp_path)
    with pytest.raises(StateError, match=r"cannot be written .*: choose another --out"):
        write_table(sweep, stem=tmp_path / "absent" / "x")
    assert cli.main(["table", str(tmp_path)]) == 2 and "is no sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema": 7}, "another schema"),
        ({"methods": []}, "methods: "),
        ({"methods": ["FedAvg", "FedAvg"]}, "names a method twice"),
        ({"against": "Other"}, "none of its methods"),
        ({"cells": [cell("Other", 0)]}, "none of its methods"),
        ({"cells": [cell("FedAvg", 0, "../../etc")]}, "cells.0.run: "),
        ({"cells": [cell("FedAvg", 0, at={"data": "demo"})]}, "its axes are data, peft, alpha"),
        ({"cells": [cell("FedAvg", 0, at={**AT, "alpha": 3.0})]}, "alpha = 3.0, which is not on that axis"),
        ({"cells": [cell("FedAvg", 0, "a"), cell("FedAvg", 0, "b")]}, "two cells of one method"),
    ],
)
def test_a_damaged_plan_is_refused(sweep, change, match):
    content = json.loads((sweep / "plan.json").read_text())
    (sweep / "plan.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(StateError, match=match):
        read_sweep(sweep)


def test_half_a_plan_is_refused(sweep):
    text = (sweep / "plan.json").read_text()
    (sweep / "plan.json").write_text(text[: len(text) // 2])
    with pytest.raises(StateError, match=r"plan\.json.* Call fedpurel sweep again"):
        read_sweep(sweep)


def test_a_sweep_without_a_completed_run_is_refused(tmp_path):
    write_plan(tmp_path, ["FedAvg"], [cell("FedAvg", 0)])
    with pytest.raises(StateError, match="has no completed run among 1; the first: not run yet"):
        write_table(tmp_path)


def test_names_in_the_picture_do_not_collide_with_25_methods(tmp_path):
    table = {f"A method with quite a long name {number}": {0: 60.0 + number, 1: 61.0} for number in range(25)}
    settings = {name: {"algorithm": "fedavg"} for name in table}
    path = tmp_path / "sweep"
    for index, (name, by_seed) in enumerate(table.items()):
        for seed, value in by_seed.items():
            models = {"global": scores(value), "global_at_sites": scores(value)}
            write_run(path / "runs" / f"m{index}-s{seed}", {**settings[name], "seed": seed}, models)
    cells = [cell(name, seed, f"m{index}-s{seed}") for index, name in enumerate(table) for seed in (0, 1)]
    write_plan(path, list(table), cells)
    board = board_of(path, next(iter(table)), ("all", "few"))
    figure = painted([board])
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    axes = figure.subfigs[0].axes
    names = [label.get_window_extent(renderer) for label in axes[0].get_yticklabels()]
    assert len(names) == 25 and not any(one.overlaps(other) for one, other in pairwise(names))
    for left, right in pairwise(axes):
        beside = [text.get_window_extent(renderer) for text in left.texts]
        assert len(beside) == 25 and max(box.x1 for box in beside) < right.get_window_extent(renderer).x0
    assert max(text.get_window_extent(renderer).x1 for text in axes[-1].texts) <= figure.bbox.x1
    pyplot().close(figure)
