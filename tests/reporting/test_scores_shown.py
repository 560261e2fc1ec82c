"""Calibration, macro-F1, worst class and site, gains: in tables, files and trackers, and what is told without them."""

import csv

import numpy as np
import pytest

from fedpurel_app.client_app import app as client_app
from fedpurel_app.core.details import NAMES
from fedpurel_app.core.metrics import ClassCounts
from fedpurel_app.core.site_scores import SiteScores, pool_sites
from fedpurel_app.reporting.columns import COLUMNS, DETAILS, detail_lines
from fedpurel_app.reporting.compare import compare
from fedpurel_app.reporting.console import show_lines, summary_lines
from fedpurel_app.reporting.recorder import flat_numbers
from fedpurel_app.reporting.site_table import site_lines
from fedpurel_app.reporting.tables import SITE_COLUMNS, site_rows
from fedpurel_app.server_app import app as server_app
from tests.attacks.conftest import feature_site
from tests.attacks.test_replies import honest
from tests.support import EndedRun, run_app, run_tiny, tiny_config
from tests.test_details import three_classes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("shown"), global_rounds=2, evaluate_every=1)


def counts(right, total):
    return ClassCounts(np.array([right]), np.array([total]))


def a_site(right, both=None):
    """Forty-eight images, of which zero-shot has 20 right, the global model 24 and the personalized one some."""
    found = {"zero-shot": counts(20, 48), "global": counts(24, 48), "personalized": counts(right, 48)}
    told = {} if both is None else {"personalized": both}
    return SiteScores(found, True, {}, told)


def cells(**sites):
    rows = [[str(cell) for cell in row] for row in site_rows(sites)]
    return [dict(zip(SITE_COLUMNS, row, strict=True)) for row in rows]


def test_a_site_s_gain_has_the_interval_of_paired_outcomes():
    """24 and 32 of 48 right, 23 by both: one against nine, 16 ± 12.8345 points around the shrunk gain. Wilson:
    50 ± 100 · 1.95996 / (1 + 0.0800304) · √(0.25 / 48 + 0.0800304 / 192) = 50 ± 13.6107."""
    (row,) = cells(a=a_site(32, both=23))
    ends = [float(row[f"{name}_{end}"]) for name in ("gain", "global") for end in ("low", "high")]
    assert ends == pytest.approx([3.1655, 28.8345, 36.3893, 63.6107], abs=1e-3)
    assert float(row["gain"]) == pytest.approx(100 / 6, abs=1e-3)
    assert float(row["global_gain"]) == pytest.approx(100 / 12, abs=1e-3)
    assert row["global_gain_low"] == "", "it did not tell how many images both had right"


def test_a_site_without_a_branch_is_flagged_and_its_gain_has_no_interval():
    without = SiteScores({"global": counts(24, 48)}, False)
    one, other = cells(a=a_site(32, both=23), b=without)
    assert (other["gain"], other["gain_low"], other["has_private_branch"]) == ("0.0000", "", "0")
    head, first, second, legend = site_lines([one, other])
    assert "+16.7 [+3.2, +28.8]" in first and "no branch" not in first
    assert "(no branch: PM is GM)" in second and "95 %" in legend and "PM - GM" in head
    assert site_lines([{"site": "a", "gain": "1.0", "has_private_branch": "1"}]) == [], "a table of before"


def test_long_tables_of_sites_are_cut():
    lines = site_lines(cells(**{f"s{number:02}": a_site(30) for number in range(45)}))
    assert len(lines) == 43 and lines[-2] == "... and 5 more sites in sites.csv"


def test_the_worst_site_and_class_are_the_lowest_accuracies():
    one = SiteScores({"global": ClassCounts(np.array([9, 1]), np.array([10, 2]))}, False)
    other = SiteScores({"global": ClassCounts(np.array([3, 2]), np.array([8, 2]))}, False)
    found = pool_sites({"a": one, "b": other}, None, 1, 0.1, 2)["global"]
    assert found is not None
    assert found["worst_site"] == pytest.approx(50.0) and found["worst_class"] == pytest.approx(100 * 12 / 18)


def test_sites_without_a_branch_do_not_stand_for_those_that_keep_their_confidences():
    own, details = three_classes()
    silent = SiteScores({"global": own, "personalized": own}, True, {"global": details})
    plain = SiteScores({"global": own}, False, {"global": details})
    pooled = pool_sites({"a": silent, "b": plain, "c": plain}, None, 1, 0.1, 3)
    assert pooled["global"] is not None and pooled["global"]["nll"] is not None
    assert pooled["personalized"] is not None and pooled["personalized"]["nll"] is None
    loud = SiteScores(silent.counts, True, {"global": details, "personalized": details})
    again = pool_sites({"a": loud, "b": silent, "c": plain}, None, 1, 0.1, 3)["personalized"]
    assert again is not None and again["nll"] is not None and again["sites_calibrated"] == 2


def test_summary_and_rounds_have_every_score_and_the_terminal_shows_it(run):
    summary, last = run.summary(), run.rounds()[-1]
    for scores in (summary["zero_shot"], summary["global"], last["sites"]["global"]):
        assert all(scores[name] is not None for name in (*NAMES, "worst_class"))
    assert summary["mean_of_last_10"]["global"]["ece"] > 0
    assert not [key for key in summary["reasons"] if key.endswith(".ece")]
    lines = summary_lines(summary)
    head = next(line for line in lines if "ECE few" in line)
    assert any(line.startswith("global model") and f"{summary['global']['nll']:.3f}" in line for line in lines)
    assert max(map(len, lines)) <= 110 and "worst class" in head and detail_lines({"global": {"all": 1.0}}) == []
    shown = show_lines(run)
    assert [line for line in shown if line.startswith("site-0 ")] and any("PM - GM" in line for line in shown)


def test_trackers_are_given_every_score(run):
    flat = flat_numbers(run.rounds()[-1])
    assert {f"{place}/{name}" for place in ("global", "sites/personalized") for name in NAMES} <= set(flat)


def test_compare_has_every_score_in_its_files_and_as_many_as_fit_on_the_terminal(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    lines = compare([run.path], tmp_path / "table")
    with (tmp_path / "table.csv").open() as file:
        (_, row) = csv.DictReader(file)
    for name in DETAILS[:2] + DETAILS[3:]:
        assert float(row[f"GM {name} mean"]) == pytest.approx(run.summary()["global"][name], abs=1e-3)
    assert float(row["PM worst_site mean"]) == pytest.approx(run.summary()["personalized"]["worst_site"], abs=1e-3)
    header = (tmp_path / "table.md").read_text().splitlines()[0]
    assert all(f"GM at sites {name}" in header for name in COLUMNS)
    assert any(" NLL" in line and "ECE few" in line for line in lines) and max(map(len, lines[:-1])) <= 120


def test_a_client_that_sends_counts_alone_is_scored_by_them(tmp_path):
    config = tiny_config(tmp_path, num_sites=0, fraction_train=1.0, evaluate_every=1)
    run_app(server_app, honest(width=6, numbers=lambda site: 7), 3, config)
    summary = EndedRun(tmp_path / "run").summary()
    at_sites = summary["global_at_sites"]
    assert at_sites["all"] is not None and at_sites["worst_site"] is not None and summary["dropped_replies"] == 0
    assert [at_sites[name] for name in NAMES] == [None] * len(NAMES)
    assert summary["reasons"]["global_at_sites.ece"] == "most sites sent no confidences"
    assert summary["global"]["ece"] is not None, "the server's own test set"


def test_real_sites_tell_the_calibration_of_the_global_model_and_not_of_their_own(tmp_path):
    nodes = [feature_site(tmp_path / name, site=name)[1] for name in "abc"]
    config, _ = feature_site(tmp_path / "server")
    config |= {"dataset-path": str(tmp_path / "server" / "own.npz"), "global-rounds": 1, "personal-rounds": 1}
    config |= {"fraction-train": 1.0, "out": str(tmp_path / "run")}
    run_app(server_app, client_app, 3, config, nodes=nodes)
    folder = EndedRun(tmp_path / "run")
    summary = folder.summary()
    assert summary["global_at_sites"]["ece"] is not None and summary["global_at_sites"]["macro_f1"] is None
    assert summary["personalized"]["all"] is not None and summary["personalized"]["ece"] is None
    assert summary["reasons"]["personalized.ece"] == "most sites sent no confidences"
    rows = folder.read_csv("sites.csv")
    assert all(row["gain_low"] and row["global_ece"] and not row["personalized_ece"] for row in rows)
