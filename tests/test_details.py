"""What is counted beside right answers: by hand, against the pooled logits, and its bits."""

import json
from itertools import pairwise
from math import comb, log

import numpy as np
import pytest
import torch

from fedpurel_app.core.calibration import UNIT, Bins
from fedpurel_app.core.detail_records import both_right_from_metrics, details_from_metrics, details_to_metrics
from fedpurel_app.core.details import Details, detail_scores, macro_f1
from fedpurel_app.core.intervals import paired_difference, wilson
from fedpurel_app.core.metrics import ClassCounts
from fedpurel_app.core.site_scores import SiteScores, pool_sites
from fedpurel_app.reporting.tables import calibration_rows
from fedpurel_app.training import evaluation
from fedpurel_app.training.evaluation import evaluate
from fedpurel_app.training.inputs import LocalData
from tests.support import run_tiny, timeless
from tests.training.test_evaluation import Fixed

GROUPS = {"many": np.array([0]), "medium": np.array([1]), "few": np.array([2])}
NONE = dict.fromkeys(("ece", "ece_many", "ece_few", "nll", "macro_f1", "tail_as_head"))


def test_the_calibration_error_is_the_mean_gap_between_confidence_and_hits():
    """0.5 twice (bin 7, one hit: no gap) and 0.9 once (bin 13, a hit: gap 0.1), over three images."""
    bins = Bins.of(np.array([0.5, 0.5, 0.9]), np.array([True, False, True]))
    assert np.flatnonzero(bins.total).tolist() == [7, 13] and bins.total.sum() == 3
    assert bins.confidence[0, 7] == UNIT and bins.ece == pytest.approx(0.1 / 3, abs=1e-5)


def test_a_bin_holds_its_upper_edge_and_what_is_no_number_lies_in_the_first():
    bins = Bins.of(np.array([1.0, 3 / 15 - 1e-4, 3 / 15 + 1e-4, np.nan, 0.0]), np.zeros(5, bool))
    assert np.flatnonzero(bins.total).tolist() == [0, 2, 3, 14] and bins.total[0, 0] == 2
    assert Bins.of(np.array([]), np.array([], bool)).ece is None


def test_groups_have_bins_of_their_own():
    """Group 0 is right at 0.8, group 2 wrong at 0.8: gaps 0.2 and 0.8; together they are two images with one hit."""
    bins = Bins.of(np.array([0.8, 0.8]), np.array([True, False]), np.array([0, 2]), 3)
    assert [bins.rows(group).ece for group in range(3)] == [
        pytest.approx(0.2, abs=1e-4),
        None,
        pytest.approx(0.8, abs=1e-4),
    ]
    assert bins.ece == bins.over_groups().ece == pytest.approx(0.3, abs=1e-4)


def three_classes(groups=GROUPS):
    """Labels 0 0 1 2 2 2, predictions 0 1 1 2 0 0."""
    labels, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 0, 0])
    losses = np.array([log(2)] * 5 + [np.inf])
    counts = ClassCounts.of(labels == predicted, labels, 3)
    return counts, Details.of(labels, predicted, np.full(6, 0.5), losses, 3, groups)


def test_scores_of_three_classes_by_hand():
    """F1: 2/(2+3), 2/(1+2), 2/(3+1), mean 47/90. Of three tail images two are taken for the head. All at 0.5, half
    right: no gap; the head is right once in two, the tail once in three. The infinite loss counts as 1,000 nats."""
    scores = detail_scores([three_classes()], 3)
    assert scores["macro_f1"] == pytest.approx(100 * 47 / 90) and scores["tail_as_head"] == pytest.approx(200 / 3)
    assert [scores[name] for name in ("ece", "ece_many", "ece_few")] == pytest.approx([0, 0, 100 / 6])
    assert scores["nll"] == pytest.approx((1000 + 5 * log(2)) / 6, abs=1e-4)


def test_f1_leaves_out_classes_without_test_images():
    counts = ClassCounts(np.array([1, 0]), np.array([1, 0]))
    assert macro_f1(counts, np.array([1, 0])) == 1.0 and macro_f1(ClassCounts.zeros(2), np.zeros(2, np.int64)) is None


def test_without_groups_there_is_no_score_of_them():
    scores = detail_scores([three_classes(None)], 3)
    assert {name for name, value in scores.items() if value is None} == {"ece_many", "ece_few", "tail_as_head"}
    assert detail_scores([(three_classes()[0], None)], 3) == NONE == detail_scores([], 3)


def test_each_score_is_of_the_sites_that_know_it_if_those_are_half():
    counts, details = three_classes()
    both = [(counts, details), (counts, None)]
    assert detail_scores(both, 3) == pytest.approx(detail_scores([(counts, details)], 3))
    assert detail_scores([*both, (counts, None)], 3) == NONE
    mixed = detail_scores([(counts, details), (counts.over_classes(), details.totals())], 3)
    assert mixed["ece_few"] == pytest.approx(100 / 6) and mixed["macro_f1"] == pytest.approx(100 * 47 / 90)


# --- pooling ------------------------------------------------------------------------------------------------------


def reference(logits, labels, groups):
    """Compute the scores of logits, shape (N, C), in the plain way, in double precision."""
    p = torch.from_numpy(logits).double().softmax(1).numpy()
    top, guess = p.max(1), p.argmax(1)

    def ece(chosen):
        edges, total = np.linspace(0, 1, 16), 0.0
        for low, high in pairwise(edges):
            inside = chosen & (top > low) & (top <= high)
            if inside.any():
                total += inside.sum() * abs((guess == labels)[inside].mean() - top[inside].mean())
        return 100 * total / chosen.sum()

    f1 = []
    for label in np.unique(labels):
        right = ((guess == label) & (labels == label)).sum()
        f1.append(2 * right / ((guess == label).sum() + (labels == label).sum()))
    few = np.isin(labels, groups["few"])
    return {
        "ece": ece(np.ones(len(labels), bool)),
        "ece_many": ece(np.isin(labels, groups["many"])),
        "ece_few": ece(few),
        "nll": float(-np.log(p[np.arange(len(labels)), labels]).mean()),
        "macro_f1": 100 * float(np.mean(f1)),
        "tail_as_head": 100 * float(np.isin(guess[few], groups["many"]).mean()),
    }


def sites(seed, number=2000, classes=9):
    """Deal random images out to sites of random sizes; yields logits, labels, places."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, number)
    logits = (rng.normal(size=(3, number, classes)) * rng.uniform(0.5, 4)).astype(np.float32)
    logits[:, np.arange(number), labels] += rng.uniform(0, 4)
    cuts = np.sort(rng.choice(number - 1, 4, replace=False) + 1)
    return logits, labels, np.split(np.arange(number), cuts)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "leaves", [lambda bins: bins, lambda bins: bins.coarse(UNIT // 16)], ids=["whole", "sixteenths"]
)
def test_pooled_sites_have_the_scores_of_the_pooled_logits(monkeypatch, seed, leaves):
    """Whatever the division: logits of all sites in one heap give the same to 1e-3, for each of the models."""
    monkeypatch.setattr(evaluation, "_ROWS_AT_ONCE", 100)
    logits, labels, places = sites(seed)
    groups = {name: np.arange(3 * i, 3 * i + 3) for i, name in enumerate(("many", "medium", "few"))}
    bias = np.linspace(-1, 1, 9, dtype=np.float32)
    scores = {}
    for site, rows in enumerate(places):
        inputs = torch.from_numpy(rows)[:, None].float()
        data = LocalData(inputs, torch.from_numpy(labels[rows]), torch.from_numpy(logits[0, rows]))
        own = [Fixed(torch.from_numpy(part)) for part in logits[1:]]
        found = evaluate(data, (own[0],), (own[0], own[1]), torch.from_numpy(bias), groups)
        details = {
            model: Details(leaves(one.bins), one.nll, one.predicted, one.confusion)
            for model, one in found.details.items()
        }
        scores[str(site)] = SiteScores(found.counts, True, details, found.both_right)
        scores[str(site)].require()
    pooled = pool_sites(scores, groups, 1, 0.1, 9)
    heaps = {"zero_shot": logits[0], "global": logits[1] + bias, "personalized": logits[1] + logits[2] + bias}
    for model, heap in heaps.items():
        told, expected = pooled[model], reference(heap, labels, groups)
        assert told is not None
        for name, value in expected.items():
            assert told[name] == pytest.approx(value, abs=0.1 if name != "nll" else 1e-3), (model, name)  # 1e-3 of one


def test_the_table_of_bins_pools_sites_and_leaves_out_who_keeps_them():
    """Two images that are 79 % sure, in bin 11 of 15, of the head (right) and of the tail (wrong), and a third at b."""
    first = Details(Bins.of(np.array([0.79, 0.79]), np.array([True, False]), np.array([0, 2]), 3))
    second = Details(Bins.of(np.array([0.75]), np.array([True]), np.array([2]), 3))
    counts = ClassCounts(np.array([1]), np.array([1]))
    told = [(counts, first), (counts, second), (counts, None)]
    rows = calibration_rows({"global": told, "personalized": [(counts, None), (counts, None), (counts, second)]})
    edges = ["73.3333", "80.0000"]
    whole, tail = 100 * (51773 + 51773 + 49152) / 65536 / 3, 100 * (51773 + 49152) / 65536 / 2
    assert rows == [
        ["global", "all", *edges, 3, 2, f"{whole:.4f}"],
        ["global", "many", *edges, 1, 1, f"{100 * 51773 / 65536:.4f}"],
        ["global", "few", *edges, 2, 1, f"{tail:.4f}"],
    ]


def test_integers_pool_exactly():
    logits, labels, places = sites(7)
    top, guess = logits[0].max(1) / 100, logits[0].argmax(1)

    def details(rows):
        return Details.of(labels[rows], guess[rows], np.clip(top[rows], 0, 1), np.abs(top[rows]), 9, None)

    whole, parts = details(slice(None)), [details(rows) for rows in places]
    bins = [part.bins for part in parts if part.bins is not None]
    summed = sum(bins[1:], bins[0])
    assert whole.bins is not None and np.array_equal(summed.confidence, whole.bins.confidence)
    assert whole.nll == sum(part.nll or 0 for part in parts)


# --- intervals ----------------------------------------------------------------------------------------------------


def test_wilsons_interval_by_hand():
    """8 of 10: (0.8 + z²/20 ± z √(0.016 + z²/400)) / (1 + z²/10) with z² = 3.8415."""
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert wilson(0, 5) == pytest.approx((0.0, 0.434482), abs=1e-6) and wilson(0, 0) is None


def test_the_paired_interval_by_hand():
    """One against nine of 48: p = 2/50 and 10/50, 0.16 ± 1.95996 √((0.24 − 0.0256) / 50)."""
    assert paired_difference(1, 9, 48) == pytest.approx((0.16 - 0.128345, 0.16 + 0.128345), abs=1e-5)
    low, high = paired_difference(9, 1, 48) or (0, 0)
    assert (-high, -low) == pytest.approx(paired_difference(1, 9, 48))
    assert paired_difference(0, 0, 0) is None


@pytest.mark.parametrize(("first", "second"), [(0.05, 0.05), (0.02, 0.1), (0.1, 0.3), (0.3, 0.25), (0.01, 0.02)])
def test_the_paired_interval_holds_the_difference_as_often_as_it_says(first, second):
    """Every outcome of 40 images, weighed by its probability, with any share of images that both models get right."""
    n, covered = 40, 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            low, high = paired_difference(a, b, n) or (1, -1)
            weight = comb(n, a) * comb(n - a, b) * first**a * second**b * (1 - first - second) ** (n - a - b)
            covered += weight * (low <= second - first <= high)
    assert covered > 0.94


# --- the wire -----------------------------------------------------------------------------------------------------


def test_details_survive_the_wire():
    _, details = three_classes()
    metrics = details_to_metrics("global", details, 2)
    found = details_from_metrics("global", metrics)
    assert details_to_metrics("global", found, both_right_from_metrics("global", metrics)) == metrics
    assert len(metrics) == 7 and json.loads(json.dumps(metrics)) == metrics
    assert not details_from_metrics("personalized", metrics)


def test_a_run_has_the_same_bits_twice(tmp_path):
    first, second = (run_tiny(tmp_path / name, global_rounds=1, experiment_id="e") for name in "ab")
    assert timeless(first) == timeless(second)
    last = first.rounds()[-1]
    known = [last["global"], *last["sites"].values()]
    assert all(one[name] is not None for one in known for name in NONE)
    assert all(one["worst_site"] <= one["all"] and one["worst_class"] <= one["few"] for one in last["sites"].values())
