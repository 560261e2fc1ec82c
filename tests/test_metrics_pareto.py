"""Hypervolume, sparsity and range, by hand and by counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpurel_app.core.metrics_pareto import hypervolume, nondominated, sparsity, spread

THREE = [(0.2, 0.6), (0.4, 0.4), (0.6, 0.2)]


def test_three_points_by_hand():
    # Strips from left to right: 0.8 x 0.4, 0.6 x 0.2 and 0.4 x 0.2.
    assert hypervolume(THREE, (1, 1)) == pytest.approx(0.32 + 0.12 + 0.08)
    # Gaps of 0.2 twice in either objective: (2 x 0.04 + 2 x 0.04) / 2.
    assert sparsity(THREE) == pytest.approx(0.08)
    assert spread(THREE).tolist() == pytest.approx([0.4, 0.4])


def test_a_dominated_point_and_a_second_copy_change_nothing():
    more = [*THREE, (0.5, 0.7), (0.4, 0.4), (0.4, 0.5)]
    assert hypervolume(more, (1, 1)) == pytest.approx(0.52)
    assert sparsity(more) == pytest.approx(0.08) and spread(more).tolist() == pytest.approx([0.4, 0.4])
    assert nondominated(more).tolist() == [list(point) for point in THREE]


def test_three_objectives_by_hand():
    """Boxes of 1/4, less their overlaps of 1/8 by twos, and back the one of all three."""
    corners = [(0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    assert hypervolume(corners, (1, 1, 1)) == pytest.approx(3 * 0.25 - 3 * 0.125 + 0.125)


def test_what_is_not_better_than_the_reference_in_everything_adds_nothing():
    assert hypervolume([(0.2, 1.0), (1.2, 0.0)], (1, 1)) == 0 and hypervolume([(1.0, 1.0, 0.0)], (1, 1, 1)) == 0
    assert hypervolume([(0.0, 0.0)], (1, 1)) == 1 and hypervolume(np.zeros((0, 2)), (1, 1)) == 0
    assert sparsity([(0.1, 0.2)]) == 0 and spread(np.zeros((0, 3))).tolist() == [0, 0, 0]


def test_other_numbers_of_objectives_and_what_is_no_number_are_refused():
    for points, reference in ([(0.1,)], (1,)), ([(0.1, 0.1, 0.1, 0.1)], (1, 1, 1, 1)), (THREE, (1, 1, 1)):
        with pytest.raises(ValueError, match="2 or 3 objectives"):
            hypervolume(points, reference)
    with pytest.raises(ValueError, match="finite numbers"):
        hypervolume([(np.nan, 0.1)], (1, 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 3), st.data())
def test_the_volume_is_that_of_the_cells_that_some_point_dominates(objectives, data):
    """On a grid of eighths, where every cell is dominated as a whole or not at all."""
    points = np.array(data.draw(st.lists(st.tuples(*[st.integers(0, 8)] * objectives), min_size=1, max_size=6)))
    corners = np.stack(np.meshgrid(*[np.arange(8)] * objectives, indexing="ij"), -1).reshape(-1, objectives)
    cells = sum(bool((points <= corner).all(1).any()) for corner in corners)
    assert hypervolume(points / 8, (1,) * objectives) == pytest.approx(cells / 8**objectives)
