import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpurel_app.data.dealing.longtail import profile, quota, select


def test_cifar100_at_100_has_the_published_counts():
    counts = profile(np.full(100, 500), 100)
    assert (counts[0], counts[-1], counts.sum()) == (500, 5, 10_847)


def test_cifar10_at_100_has_the_published_counts():
    counts = profile(np.full(10, 5000), 100)
    assert (counts[0], counts[-1], counts.sum()) == (5000, 50, 12_406)


def test_factor_one_keeps_the_split_as_it_is():
    assert profile(np.array([3, 0, 7]), 1).tolist() == [3, 0, 7]


def test_largest_class_is_the_mean_class_size_by_default():
    """Mean of 40, 20, 30 is 30; ranks 0, 1, 2 get 30, 30/sqrt(9), 30/9."""
    assert profile(np.array([40, 20, 30]), 9).tolist() == [30, 10, 3]


def test_empty_tail_classes_are_kept_only_on_request():
    available = np.full(5, 20)
    assert profile(available, 100)[-1] == 1
    assert profile(available, 100, keep_empty=True)[-1] == 0


def test_rank_decides_who_is_tail():
    assert profile(np.full(3, 100), 100, rank=np.array([2, 0, 1])).tolist() == [1, 100, 10]


@given(st.lists(st.integers(1, 300), min_size=2, max_size=30), st.floats(1.01, 1000), st.integers(0, 500))
def test_no_class_gives_more_than_it_has_or_nothing(available, factor, largest):
    counts = profile(np.array(available), factor, largest)
    assert (counts <= available).all() and (counts >= 1).all()


def test_a_short_class_gives_all_it_has():
    assert profile(np.array([5, 100, 100]), 10, max_per_class=100).tolist() == [5, 31, 10]


def test_selection_draws_that_many_rows_of_each_class_once():
    labels = np.random.default_rng(0).integers(0, 3, 200)
    rows = select(labels, np.array([10, 0, 5]), np.random.default_rng(1))
    assert np.bincount(labels[rows], minlength=3).tolist() == [10, 0, 5]
    assert len(set(rows.tolist())) == 15 and (np.diff(rows) > 0).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_selection_follows_its_seed(seed):
    labels = np.repeat(np.arange(4), 50)
    again = [select(labels, np.full(4, 10), np.random.default_rng(seed)).tolist() for _ in range(2)]
    assert again[0] == again[1] != select(labels, np.full(4, 10), np.random.default_rng(9)).tolist()


def test_shots_take_the_place_of_the_profile():
    available = np.array([40, 3, 16])
    assert profile(available, 100, shots=16).tolist() == [16, 3, 16]
    assert quota(available, 100, shots=16).tolist() == [16, 16, 16]
