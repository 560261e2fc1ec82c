"""Planted groups of sites: agreement of two groupings by hand, and what a site is given."""

import numpy as np
import pytest

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
