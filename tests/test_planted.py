"""Planted groups of sites: agreement of two groupings by hand, and what a site is given."""

import numpy as np
import pytest

from benchmarks.attention import likeness, on_own
from benchmarks.planted import FEWEST, GROUPS, MOST, SITES, TESTED, adjusted_rand, plant
from benchmarks.synthetic import tiny_features


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("aabb", "1100", 1.0),
        ("aabb", "xxxy", 0.0),  # 1 pair together in both, as many as 2 * 3 / 6 let one expect
        ("aabbcc", "aabbbc", (2 - 0.8) / (3.5 - 0.8)),  # 2 in both, 3 and 4 in each, of 15
        ("abab", "aabb", (0 - 2 / 3) / (2 - 2 / 3)),  # less than chance
        ("aaaa", "bbbb", 1.0),
    ],
)
def test_agreement_of_groupings_is_corrected_for_chance(left, right, expected):
    assert adjusted_rand(left, right) == adjusted_rand(right, left) == pytest.approx(expected, abs=1e-15)


def test_a_site_has_the_share_of_its_group_and_no_training_image_of_another(tmp_path):
    with np.load(tiny_features(tmp_path / "all.npz", 40, 16, 80)) as file:
        whole = {name: file[name] for name in file.files}
    nodes = plant(whole, 300, 0.9, tmp_path / "sites")
    assert [node["site"] for node in nodes] == [f"site-{site:02}" for site in range(SITES)]
    seen, in_group = [], [np.zeros(40) for _ in range(GROUPS)]
    for place, node in enumerate(nodes):
        assert node["edge"] == f"group-{place % GROUPS}"
        with np.load(node["data"]) as file:
            assert FEWEST <= len(file["train_labels"]) <= MOST and len(file["test_labels"]) == TESTED
            assert np.array_equal(file["text_features"], whole["text_features"])
            seen += [row.tobytes() for row in file["train_features"]]
            in_group[place % GROUPS] += np.bincount(file["train_labels"], minlength=40)
    assert len(seen) == len(set(seen))
    for counts in in_group:
        own = np.sort(counts)[-40 // GROUPS :].sum() / counts.sum()
        assert own == pytest.approx(0.9, abs=0.01)
    again = plant(whole, 300, 0.9, tmp_path / "again")
    for one, other in zip(nodes, again, strict=True):
        with np.load(one["data"]) as left, np.load(other["data"]) as right:
            assert all(np.array_equal(left[name], right[name]) for name in left.files)


def test_the_share_of_attention_on_the_own_group_by_hand():
    """A knob that weighs a row by its first number: site b sees rows b, a, c of 3, 1, 0 and its group is {a, b}."""

    class Weighing:
        def attention(self, preference, tasks):
            return tasks[:, 0] / tasks[:, 0].sum()

    rows = {"a": [1.0, 3.0, 0.0], "b": [3.0, 1.0, 0.0], "c": [2.0, 1.0, 1.0]}  # the own one first, others by name
    tasks = {site: np.array(values, np.float32)[:, None] for site, values in rows.items()}
    groups = {"a": "one", "b": "one", "c": "two"}
    assert on_own(Weighing(), {"b": tasks["b"], **tasks}, groups) == pytest.approx(100 * (1 + 1 + 0.5) / 3)
    even = {site: np.ones((3, 1), np.float32) for site in rows}
    assert on_own(Weighing(), even, groups) == pytest.approx(100 * (2 + 2 + 1) / 9)


def test_the_likeness_within_groups_by_hand():
    """Cosines: a b 1, a c 0, b c 0; a and b are a group, and then a and c, which makes 0 less the mean of 1 and 0."""
    rows = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 5.0]])
    assert likeness(rows, ["x", "x", "y"]) == pytest.approx(1)
    assert likeness(rows, ["x", "y", "x"]) == pytest.approx(-0.5)
