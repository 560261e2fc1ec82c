"""Tokens that move between blocks, at the server: idleness, verdict, choice and state, by hand."""

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies.parts import Reply, load_part
from fedpurel_app.strategies.parts.relocation import Move, Relocation, State, gain, judge, mean_idleness

SGD = SgdSettings(0.1, 0.0, 0.0, 4, 1)
OPTIONS: dict[str, Any] = {
    "prompt-relocation": "bandit",
    "prompt-tokens": 2,
    "relocate-every": 1,
    "relocation-warmup": 0,
    "global-rounds": 100,
    "seed": 0,
}
BLOCKS, TOKENS = 3, 6


def part(**changes):
    found = load_part("relocation", OPTIONS | {key.replace("_", "-"): value for key, value in changes.items()}, SGD)
    assert isinstance(found, Relocation)
    return found


def tokens(seed=0):
    return {"tokens": np.random.default_rng(seed).normal(size=(TOKENS, 4)).astype(np.float32)}


def reply(examples, idle=None, loss=None):
    return Reply({}, examples, examples, loss, lists={} if idle is None else {"idleness": idle})


def play(one, replies, number=0):
    sent, mean = tokens(number), tokens(number + 1)
    one.meet(sent, {})
    return one.finish(sent, mean, replies, 10), mean


def home(one):
    return one.layout()["home"].tolist()


IDLE = [-1.0, -2.0, 0.5, 0.1, -3.0, 0.0]  # token 2, of block 1, is the idlest


def test_idleness_is_weighed_by_images():
    """n = (1, 3), I = (4, 0): 1. Sites that tell none are left out."""
    both, one = {"a": reply(1, [4.0, 0.0]), "b": reply(3, [0.0, 8.0])}, {"a": reply(1, [4.0]), "b": reply(3)}
    for replies, expected in ((both, [1.0, 6.0]), (one, [4.0])):
        found = mean_idleness(replies)
        assert found is not None and found.tolist() == expected
    assert mean_idleness({"a": reply(1)}) is None
    assert mean_idleness({"a": reply(10**8, [1e300]), "b": reply(1, [-1e300])}) is not None
    with np.errstate(over="ignore", invalid="ignore"):
        assert mean_idleness({"a": reply(1, [float("inf")])}) is None


@pytest.mark.parametrize(("idleness", "helped"), [(0.6, False), (0.4, True), (0.5, True)])
def test_a_move_helped_when_the_loss_fell_by_more_than_fading_alone_promised(idleness, helped):
    """L 2.0 -> 1.5."""
    none = np.zeros(BLOCKS, int)
    state = State(np.zeros(TOKENS, int), none, none, 1, {"a": 2.0}, Move(0, 1, 2, idleness))
    found, said = judge(state, {"a": reply(7, loss=1.5)})
    assert said is helped and found.waiting is None
    assert found.successes.tolist() == [0, 0, helped] and found.failures.tolist() == [0, 0, not helped]


def test_only_sites_of_both_rounds_are_compared_by_their_images():
    """a: 1 image, 2.0 -> 1.0; b: 3 images, 1.0 -> 1.2; c is new: (1 - 0.6) / 4 = 0.1."""
    before = {"a": 2.0, "b": 1.0, "gone": 9.0}
    assert gain(before, {"a": reply(1, loss=1.0), "b": reply(3, loss=1.2), "c": reply(9, loss=0.0)}) == pytest.approx(
        0.1
    )
    assert gain(before, {"c": reply(9, loss=0.0), "a": reply(1)}) is None


def test_without_a_site_of_both_rounds_there_is_no_verdict():
    one = part()
    play(one, {"a": reply(1, IDLE, 2.0)})
    assert one.tells()["relocation"]["moved"] is not None
    play(one, {"b": reply(1, [-1.0] * TOKENS, 0.1)}, 1)
    assert one.tells()["relocation"] == {
        "tokens": np.bincount(home(one), minlength=3).tolist(), "most_idle": -1.0,
        "moved": None, "last_move_helped": None,
    }  # fmt: skip
    state = one.state()
    assert not state["successes"].any() and not state["failures"].any() and not len(state["waiting"])


def test_the_idlest_token_fades_and_moves_and_no_other_is_touched():
    one = part()
    found, mean = play(one, {"a": reply(1, IDLE, 2.0)})
    told = one.tells()["relocation"]["moved"]
    assert told["token"] == 2 and told["from"] == 1 and told["to"] != 1
    assert home(one) == [0, 0, told["to"], 1, 2, 2]
    assert np.array_equal(found["tokens"][2], mean["tokens"][2] * np.float32(1e-3))
    kept = [0, 1, 3, 4, 5]
    assert found["tokens"][kept].tobytes() == mean["tokens"][kept].tobytes()
    assert found["tokens"].dtype == np.float32 and mean["tokens"].tobytes() == tokens(1)["tokens"].tobytes()


def test_a_token_that_is_where_it_shall_be_stays_as_it_is():
    """Of many seeds, some draw the block that the token is in: then nothing changes, and nothing waits."""
    stayed = moved = 0
    for seed in range(20):
        one = part(seed=seed)
        found, mean = play(one, {"a": reply(1, IDLE, 2.0)})
        if one.tells()["relocation"]["moved"] is None:
            assert found["tokens"].tobytes() == mean["tokens"].tobytes() and home(one) == [0, 0, 1, 1, 2, 2]
            assert not len(one.state()["waiting"])
            stayed += 1
        else:
            moved += 1
    assert stayed and moved


@pytest.mark.parametrize("idle", [[0.0] * TOKENS, [-1.0] * TOKENS])
def test_where_no_token_does_harm_none_moves(idle):
    one = part()
    found, mean = play(one, {"a": reply(1, idle, 2.0)})
    assert found["tokens"].tobytes() == mean["tokens"].tobytes() and one.tells()["relocation"]["moved"] is None


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=TOKENS, max_size=TOKENS), min_size=1, max_size=12),
    st.sampled_from(["bandit", "random"]),
)
def test_no_token_is_lost(rounds, kind):
    one = part(**{"prompt-relocation": kind})
    for number, idle in enumerate(rounds):
        play(one, {"a": reply(1, idle, 1.0)}, number)
        assert sum(one.tells()["relocation"]["tokens"]) == TOKENS == len(home(one))
        assert set(home(one)) <= set(range(BLOCKS))


def moves(one, rounds):
    found = []
    for number in range(1, rounds + 1):
        play(one, {"a": reply(1, np.random.default_rng(number).uniform(0.1, 1, TOKENS).tolist(), 1.0)}, number)
        if one.tells()["relocation"]["moved"] is not None:
            found.append(number)
    return found


def test_moves_begin_after_the_warm_up_come_every_so_many_rounds_and_end_before_the_last():
    """Where a token is drawn to its own block, its round has none: so with many tokens and seeds, all that may."""
    for settings, expected in (
        ({"relocate-every": 1, "relocation-warmup": 0}, {1, 2, 3, 4, 5, 6, 7}),
        ({"relocate-every": 2, "relocation-warmup": 1}, {2, 4, 6}),
        ({"relocate-every": 3, "relocation-warmup": 2}, {3, 6}),
    ):
        seen: set[int] = set()
        for seed in range(15):
            seen |= set(moves(part(**settings, **{"global-rounds": 8, "seed": seed}), 8))
        assert seen == expected


def test_blocks_that_helped_are_chosen_more_often():
    """Beta(1 + 30, 1) against Beta(1, 1 + 30): the first block is drawn, unless the token is there."""
    targets = []
    for seed in range(40):
        one = part(seed=seed)
        one.meet(tokens(), {})
        known = one.state() | {"successes": np.array([30, 0, 0]), "failures": np.array([0, 30, 30])}
        one.restore(known)
        play(one, {"a": reply(1, IDLE, 2.0)})
        targets.append(one.tells()["relocation"]["moved"]["to"])
    assert targets.count(0) == 40


def test_a_random_move_asks_for_no_scores_and_is_not_judged():
    one, tried = part(**{"prompt-relocation": "random"}), set()
    assert one.lists(tokens()) == {}
    for number in range(30):
        play(one, {"a": reply(1, None, 1.0 - number / 100)}, number)
        told = one.tells()["relocation"]
        assert told["last_move_helped"] is None
        tried |= {told["moved"]["token"]} if told["moved"] else set()
    state = one.state()
    assert tried == set(range(TOKENS)) and not state["successes"].any() and not state["failures"].any()


def answers(number):
    """Return the replies of a round, drawn by its number."""
    draw = np.random.default_rng(number)
    idle = draw.normal(scale=0.2, size=TOKENS).tolist()
    return {"a": reply(2, idle, draw.uniform(0, 2)), "b": reply(3, idle, draw.uniform(0, 2))}


def test_it_goes_on_from_a_saved_state_to_the_bit():
    whole, rounds = part(), 20
    states, arrays = [], []
    for number in range(rounds):
        arrays.append(play(whole, answers(number), number)[0])
        states.append({name: value.copy() for name, value in whole.state().items()})
    assert states[-1]["successes"].any() and states[-1]["failures"].any()
    for cut in range(rounds - 1):
        again = part()
        again.restore(states[cut])
        for number in range(cut + 1, rounds):
            found, _ = play(again, answers(number), number)
            assert found["tokens"].tobytes() == arrays[number]["tokens"].tobytes()
        last = again.state()
        assert last.keys() == states[-1].keys()
        assert all(np.array_equal(last[name], value) and last[name].dtype == value.dtype
                   for name, value in states[-1].items())  # fmt: skip


def test_before_the_first_round_there_is_nothing_to_save_and_to_say():
    one = part()
    assert one.state() == {} and one.layout() == {} and one.tells() == {}
    one.restore({})
    assert one.state() == {}


def test_where_no_site_tells_its_idleness_it_is_said_once_and_nothing_moves(caplog):
    one = part()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            found, mean = play(one, {"a": reply(1, None, 2.0)}, number)
            assert found["tokens"].tobytes() == mean["tokens"].tobytes()
    assert caplog.text.count("No site tells the idleness") == 1


def test_tokens_of_a_composed_module_are_found_and_others_are_left():
    one, sent = part(), {"head": np.ones(3, np.float32), "shared.tokens": tokens()["tokens"]}
    one.meet(sent, {})
    found = one.finish(sent, sent, {"a": reply(1, IDLE, 1.0)}, 1)
    assert found.keys() == sent.keys() and one.lists(sent) == {"idleness": TOKENS}
    assert found["head"].tobytes() == sent["head"].tobytes()
    with pytest.raises(ValueError, match="no tokens"):
        part().meet({"w": np.ones(3)}, {})
