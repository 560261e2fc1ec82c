"""What sites are told of each other's tasks, by hand: fingerprints and learned rows."""

from typing import Any

import numpy as np
import pytest

from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies.parts import Part, Reply
from fedpurel_app.strategies.parts.peers import Fingerprints, Learned, project
from fedpurel_app.strategies.parts.several import Several

SGD = SgdSettings(0.1, 0.0, 0.0, 2, 1)
SENT = {"w": np.full((2, 3), 0.5, np.float32)}
RNG = np.random.default_rng(0)


def fingerprints(seed=3, behave=lambda arrays: arrays["w"]):
    return Fingerprints({"seed": seed}, SGD, behave)


def reply(change):
    return Reply({"w": (SENT["w"] + change).astype(np.float32)}, 1, 1)


def told(part, site, sent=None):
    return part.brief_personal(sent or {}, site)["tasks"]


def test_a_projection_is_one_matrix_whatever_the_pieces():
    values = RNG.normal(size=2**14 + 5)
    whole = values @ np.random.default_rng(7).standard_normal((len(values), 32))
    assert project(values, 7) == pytest.approx(whole)
    assert project(values[:9], 7) == pytest.approx(values[:9] @ np.random.default_rng(7).standard_normal((9, 32)))
    assert not np.allclose(project(values, 8), whole)


def test_a_fingerprint_is_the_mean_of_unit_changes_at_unit_length():
    """Sizes are taken out of each visit, not of their mean: u = e_1 twice and e_2 once, whatever their sizes."""
    one, first, second = fingerprints(), np.zeros((2, 3)), np.zeros((2, 3))
    first[0, 0], second[1, 1] = 1.0, 1.0
    for change in (first, 64 * second, 4 * first):
        assert one.finish(SENT, SENT, {"a": reply(change)}, 9) is SENT
    mean = np.zeros(6)
    mean[0], mean[4] = 2 / 3, 1 / 3
    (row,) = told(one, "a")
    seed = one._seed
    expected = mean @ np.random.default_rng(seed).standard_normal((6, 32))
    assert row == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
    assert row.dtype == np.float32 and np.linalg.norm(row) == pytest.approx(1, abs=1e-6)
    other = fingerprints(seed=4)
    other.finish(SENT, SENT, {"a": reply(first)}, 9)
    assert not np.allclose(told(other, "a"), row, atol=0.1), "the seed of the run fixes the matrix"


def test_like_sites_are_alike_and_others_are_not():
    one, change = fingerprints(), RNG.normal(size=(2, 3))
    one.finish(SENT, SENT, {"a": reply(change), "b": reply(3 * change), "c": reply(-change)}, 9)
    a, b, c = told(one, "a")
    assert a @ b == pytest.approx(1, abs=1e-5) and a @ c == pytest.approx(-1, abs=1e-5)


def test_the_own_row_comes_first_the_others_by_name_and_absent_sites_keep_theirs():
    one = fingerprints()
    assert told(one, "new").tolist() == [[0.0] * 32], "nobody is known"
    one.finish(SENT, SENT, {site: reply(RNG.normal(size=(2, 3))) for site in ("c", "a", "b")}, 9)
    rows = {site: told(one, site)[0] for site in "abc"}
    assert np.array_equal(told(one, "b"), np.stack([rows["b"], rows["a"], rows["c"]]))
    assert np.array_equal(told(one, "new"), np.stack([np.zeros(32), rows["a"], rows["b"], rows["c"]]))
    one.finish(SENT, SENT, {"a": reply(np.ones((2, 3)))}, 9)
    after = told(one, "b")
    assert np.array_equal(after[[0, 2]], [rows["b"], rows["c"]]) and not np.array_equal(after[1], rows["a"])


def test_a_reply_that_is_hardly_trusted_leaves_no_print():
    one = fingerprints()
    replies = {site: reply(np.eye(2, 3))._replace(factor=factor) for site, factor in (("a", 0.49), ("b", 0.5))}
    one.finish(SENT, SENT, replies, 9)
    assert set(one.rows) == {"b"}


def test_a_reply_whose_predictions_are_no_numbers_leaves_no_print():
    one = fingerprints(behave=lambda arrays: arrays["w"] * np.float32(1e38))
    one.finish(SENT, SENT, {"a": reply(1e9), "b": reply(0.25)}, 9)
    assert set(one.rows) == {"b"}
    still = fingerprints()
    still.finish(SENT, SENT, {"a": reply(0)}, 9)
    assert told(still, "a").tolist() == [[0.0] * 32], "one that does not move is at the origin"


def learned(**rows):
    one = Learned({}, SGD)
    one.learn(
        {site: {"h.embedding": np.full(32, value, np.float32), "h.x": np.ones(2)} for site, value in rows.items()}
    )
    return one


def test_learned_rows_are_the_last_ones_and_a_new_site_begins_at_their_mean():
    one = learned(b=1, a=2)
    one.learn({"b": {"h.embedding": np.full(32, 3, np.float32)}})
    assert told(one, "a")[:, 0].tolist() == [2, 3] and told(one, "b")[:, 0].tolist() == [3, 2]
    mean = {"h.embedding": np.full(32, 7, np.float32)}
    assert told(one, "c", mean)[:, 0].tolist() == [7, 2, 3] and told(one, "a", mean)[0, 0] == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -2e3, 3e38])
def test_an_embedding_that_others_would_not_take_is_refused(value):
    one = learned()
    row = np.zeros(32, np.float32)
    row[3] = value
    assert "expected 1 to 10000 rows of 32 finite float32 numbers of at most 1000" in one.refuses({"h.embedding": row})
    row[3] = 999
    assert not one.refuses({"h.embedding": row})


def test_a_restored_part_tells_the_same_to_the_bit():
    first = fingerprints()
    first.finish(SENT, SENT, {site: reply(RNG.normal(size=(2, 3))) for site in "ab"}, 9)
    for made, fresh in ((first, fingerprints()), (learned(a=1.5, b=2.5), Learned({}, SGD))):
        fresh.restore(made.state())
        more = {"a": reply(RNG.normal(size=(2, 3)))}
        for one in (made, fresh):
            one.finish(SENT, SENT, more, 9)
        assert told(made, "b").tobytes() == told(fresh, "b").tobytes() and len(told(made, "b")) == 2
        assert {key: value.tobytes() for key, value in made.state().items()} == {
            key: value.tobytes() for key, value in fresh.state().items()
        }


def test_of_several_parts_each_has_its_say():
    class Odd(Part):
        heard: Any = None

        def brief_personal(self, sent, site):
            return {"odd": np.ones(1)}

        def refuses(self, arrays):
            return "odd"

        def learn(self, replies):
            self.heard = set(replies)

    odd, peers = Odd({}, SGD), learned(a=1)
    one = Several([peers, odd])
    assert set(one.brief_personal({}, "a")) == {"tasks", "odd"}
    assert one.refuses({"h.embedding": np.zeros(32, np.float32)}) == "odd"
    assert one.refuses({"h.embedding": np.full(32, np.nan, np.float32)}).startswith("embeddings are")
    one.learn({"b": {"h.embedding": np.zeros(32, np.float32)}})
    assert odd.heard == {"b"} and set(peers.rows) == {"a", "b"}
    plain = Several([Part({}, SGD), Part({}, SGD)])
    plain.learn({})
    assert not plain.brief_personal({}, "a") and not plain.refuses({})
