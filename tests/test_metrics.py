import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpurel_app.core.metrics import (
    ClassCounts,
    balancedness,
    group_by_counts,
    group_by_terciles,
    pool,
    summarize,
)


def test_counts_by_hand():
    hits, labels = np.array([True, True, False, True]), np.array([0, 0, 0, 2])
    counts = ClassCounts.of(hits, labels, 4)
    assert counts.correct.tolist() == [2, 0, 1, 0] and counts.total.tolist() == [3, 0, 1, 0]
    assert counts.accuracy == 3 / 4
    assert counts.per_class.tolist() == pytest.approx([2 / 3, math.nan, 1.0, math.nan], nan_ok=True)


@given(hnp.arrays(bool, 60), hnp.arrays(np.int64, 60, elements=st.integers(0, 4)), st.integers(0, 60))
def test_pooled_counts_do_not_depend_on_how_images_are_dealt_out(hits, labels, cut):
    whole = ClassCounts.of(hits, labels, 5)
    parts = [ClassCounts.of(hits[part], labels[part], 5) for part in (slice(cut), slice(cut, None))]
    pooled = pool(parts)
    assert pooled is not None
    assert pooled.correct.tolist() == whole.correct.tolist() and pooled.total.tolist() == whole.total.tolist()


@pytest.mark.parametrize(("correct", "total"), [([2], [1]), ([-1], [1]), ([1, 1], [1]), ([[1]], [[1]]), ([0.5], [1.0])])
def test_impossible_counts_are_refused(correct, total):
    with pytest.raises(ValueError):
        ClassCounts(np.array(correct), np.array(total))


def test_nothing_to_count_has_no_accuracy():
    assert ClassCounts.zeros(3).accuracy is None and pool([]) is None


def test_balancedness_by_hand():
    """Two classes at distance 0.1: (2·1 + 2·exp(-0.1/0.1)) / 4."""
    assert balancedness([0.5, 0.6], power=1, sigma=0.1) == pytest.approx((1 + math.exp(-1)) / 2)
    assert balancedness([0.5, 0.6], power=2, sigma=0.1) == pytest.approx((1 + math.exp(-0.1)) / 2)


def test_balancedness_leaves_out_classes_without_examples():
    assert balancedness([0.5, math.nan, 0.6], 1, 0.1) == balancedness([0.5, 0.6], 1, 0.1)
    assert math.isnan(balancedness([math.nan], 1, 0.1))
    with pytest.raises(ValueError, match="must be positive"):
        balancedness([0.5], 0, 0.1)


@given(hnp.arrays(float, st.integers(1, 30), elements=st.floats(0, 1)))
def test_balancedness_is_largest_when_all_are_equal(accuracies):
    assert 0 < balancedness(accuracies, 1, 0.1) <= 1
    assert balancedness(np.full(len(accuracies), 0.3), 1, 0.1) == 1


def test_groups_by_counts_have_the_published_borders():
    groups = group_by_counts(np.array([101, 100, 21, 20, 0]))
    assert {name: members.tolist() for name, members in groups.items()} == {
        "many": [0],
        "medium": [1, 2],
        "few": [3, 4],
    }


def test_terciles_keep_the_order_of_ties():
    groups = group_by_terciles(np.array([5, 9, 5, 1, 5, 1]))
    assert {name: members.tolist() for name, members in groups.items()} == {
        "many": [0, 1],
        "medium": [2, 4],
        "few": [3, 5],
    }


def test_summary_counts_classes_without_a_hit_and_leaves_out_empty_groups():
    """Few holds a class at 0 % and one at 50 %: its mean is 25 %, not 50 %."""
    counts = ClassCounts(np.array([8, 0, 5]), np.array([10, 10, 10]))
    groups = {"many": np.array([], int), "medium": np.array([0]), "few": np.array([1, 2])}
    found = summarize(counts, groups, 1, 0.1)
    assert found["few"] == 25 and found["medium"] == 80 and found["many"] is None
    assert found["all"] == pytest.approx(100 * 13 / 30)


def test_summary_without_groups_or_examples():
    assert summarize(ClassCounts(np.array([1]), np.array([2])), None, 1, 0.1)["few"] is None
    assert set(summarize(ClassCounts.zeros(2), None, 1, 0.1).values()) == {None}
