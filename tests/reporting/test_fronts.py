"""Tables, words and picture of fronts, from counts that are chosen by hand."""

import sys

import numpy as np
import pytest

from benchmarks import fronts as benchmark
from fedpurel_app.core.errors import StateError
from fedpurel_app.core.fronts import Front, Point, front_from_metrics, front_to_metrics, points_of
from fedpurel_app.core.metrics import ClassCounts
from fedpurel_app.core.site_scores import SiteScores
from fedpurel_app.reporting.fronts import front_lines, front_rows, front_scores, front_tables, mean_scores, site_fronts
from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import run_tiny

# Two points of the knob and one of each other curve; 10 own images in two classes, 4 balanced ones in each.
POINTS = (
    Point("pareto", (0.0, 1.0)),
    Point("pareto", (1.0, 0.0)),
    Point("logit-adjustment", (0.0,)),
    Point("dial", (1.0,)),
)
OWN, BALANCED = np.array([8, 2]), np.array([4, 4])
CORRECT = np.array([[4, 2], [8, 0], [8, 0], [8, 0]])
EVERYWHERE = np.array([[2, 4], [4, 0], [4, 0], [4, 0]])
AGREE = np.array([5, 10, 10, 10])


def scored(front, total=OWN):
    counts = ClassCounts(np.minimum(total, 1), total)
    return SiteScores({"global": counts, "personalized": counts}, True, front=front)


def table(**sites):
    return site_fronts(POINTS, sites, BALANCED)


def test_accuracies_are_those_of_the_counts_and_dominated_points_are_told():
    rows = front_rows(POINTS, table(a=scored(Front(CORRECT, AGREE, EVERYWHERE))))
    # 6 and 8 of 10; (2/4 + 4/4) / 2 and (4/4 + 0/4) / 2; 5 and 10 of 10.
    assert rows[0] == ["a", "pareto", "0", "60.0000", "75.0000", "server", "50.0000", 1]
    assert rows[1] == ["a", "pareto", "1", "80.0000", "50.0000", "server", "100.0000", 1]
    assert [row[1:3] for row in rows[2:]] == [["logit-adjustment", "0"], ["dial", "1"]]


def test_a_curve_is_worth_its_hypervolume():
    fronts = table(a=scored(Front(CORRECT, AGREE, EVERYWHERE)), b=scored(Front(CORRECT, AGREE, EVERYWHERE)))
    worth = front_scores(POINTS, fronts)
    # Errors (0.4, 0.25) and (0.2, 0.5): 0.6 x 0.75 + 0.2 x 0.5 - ... = 0.8 x 0.5 + 0.6 x 0.25.
    assert worth[0][:3] == ["a", "pareto", 2] and float(worth[0][3]) == pytest.approx(100 * (0.8 * 0.5 + 0.6 * 0.25))
    # Gaps of 20 and 25 points.
    assert float(worth[0][4]) == pytest.approx(20**2 + 25**2) and worth[0][5:] == ["20.0000", "25.0000"]
    assert float(worth[1][3]) == pytest.approx(100 * 0.8 * 0.5) and worth[1][4:] == ["0.0000"] * 3
    means = mean_scores(worth)
    assert means["pareto"]["hypervolume"] == pytest.approx(55) and set(means) == {"pareto", "logit-adjustment", "dial"}
    lines = front_lines(means)
    assert len(lines) == 4 and "55.00" in lines[1] and "logit adjustment after training" in lines[2]
    assert front_lines({}) == [] and mean_scores([]) == {}


def test_without_the_servers_images_the_second_axis_is_that_of_the_sites_own_classes():
    rows = front_rows(POINTS, table(a=scored(Front(CORRECT, AGREE))))
    assert rows[0][4:6] == ["75.0000", "own classes"]  # (4/8 + 2/2) / 2
    # As many right answers on the server's images as there are not: those counts are left out.
    assert front_rows(POINTS, table(a=scored(Front(CORRECT, AGREE, EVERYWHERE + 1))))[0][5] == "own classes"


def test_of_totals_alone_one_axis_is_known_and_nothing_is_worth_anything():
    totals = Front(CORRECT, AGREE, EVERYWHERE).totals()
    assert totals.everywhere is None
    fronts = table(a=scored(totals, np.array([10])))
    assert front_rows(POINTS, fronts)[0][3:] == ["60.0000", "", "", "50.0000", ""]
    assert front_scores(POINTS, fronts) == [] and list(front_tables(POINTS, {}, BALANCED)) == [{}, {}]


def test_a_front_of_another_number_of_points_is_left_out():
    assert table(a=scored(Front(CORRECT[:3], AGREE[:3])), b=scored(None)) == {}


def test_a_front_travels_as_it_is():
    front = Front(CORRECT, AGREE, EVERYWHERE)
    found = front_from_metrics(front_to_metrics(front), OWN)
    assert found is not None and found.everywhere is not None and front_from_metrics({}, OWN) is None
    for one, other in ((found.correct, CORRECT), (found.agree, AGREE), (found.everywhere, EVERYWHERE)):
        assert np.array_equal(one, other)


def test_points_of_three_losses_are_spread_evenly():
    preferences = [point.at for point in points_of(3) if point.curve == "pareto"]
    assert len(set(preferences)) == 15 and all(sum(one) == 1 and min(one) >= 0 for one in preferences)
    assert len(points_of(2)) == 33


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two seeds of a run with a knob, and of FedPuReL on the same."""
    root = tmp_path_factory.mktemp("sweep")
    for seed in (0, 1):
        for algorithm in ("copsl", "coaction", "fedpurel"):
            run_tiny(root / f"{algorithm}-{seed}", algorithm=algorithm, seed=seed, global_rounds=1, personal_rounds=1,
                     fraction_train=1.0, evaluate_every=9)  # fmt: skip
    return root


def test_fronts_are_compared_over_seeds(sweep, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fronts.py", str(sweep)])
    assert benchmark.main() == 0
    lines = capsys.readouterr().out.splitlines()
    data, *heads = [line for line in lines if not line.startswith(" ")]
    assert data == "== features, alpha 1"
    assert heads == ["coaction, r = 8, linear, fingerprint; seeds 0, 1", "copsl, r = 8, linear; seeds 0, 1"]
    assert sum(line.startswith("  hypervolume, ") for line in lines) == 2 * 3
    assert all("2 seeds" in line for line in lines[-3:]) and lines[-1].strip().startswith("personalized - FedPuReL's")
    values = [line.split()[-2:] for line in lines if line.startswith("  hypervolume, pareto")]
    ours, theirs = (np.mean([float(value) for value in one]) for one in values)
    (versus,) = (line for line in lines if line.startswith("  hypervolume - CoPSL's"))
    assert float(versus.split()[3]) == pytest.approx(ours - theirs, abs=0.011)
    monkeypatch.setattr(sys, "argv", ["fronts.py", str(sweep / "fedpurel-0")])
    assert benchmark.main() == 1


def test_a_table_that_nobody_wrote_is_refused(sweep, tmp_path):
    path = sweep / "copsl-0" / "run"
    text = (path / "fronts.csv").read_text()
    assert RunFolder.open(path).read_csv("fronts.csv")
    try:
        (path / "fronts.csv").write_text(text.replace("pareto", "other"))
        with pytest.raises(StateError, match=r"fronts\.csv, row 1"):
            RunFolder.open(path).read_csv("fronts.csv")
    finally:
        (path / "fronts.csv").write_text(text)
