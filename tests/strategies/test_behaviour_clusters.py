"""Clusters by behaviour by hand: distances, who is with whom, what a site is sent, and what is remembered."""

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from fedpurel_app.compression import Codec
from fedpurel_app.core.records import ARRAYS, CONFIG, METRICS, Arrays, Description, to_array_record, to_arrays
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies import FedPuReL, Schedule
from fedpurel_app.strategies.parts import Part, Reply
from fedpurel_app.strategies.parts.behaviour_clusters import BehaviourClusters
from fedpurel_app.strategies.parts.behaviour_distance import DISTANCES, cosine, divergences, gaussian, symmetric_kl
from fedpurel_app.strategies.parts.several import Several
from tests.support import LocalGrid

SGD = SgdSettings(0.1, 0.0, 0.0, 2, 1)
SENT = {"w": np.zeros((2, 2), np.float32)}
V = np.array([[1.0, -1.0], [2.0, 0.5]])
OPTIONS = {
    "clusters": 2,
    "cluster-every": 5,
    "cluster-distance": "cosine",
    "edge-rounds": 2,
    "edge-assignment": "behaviour",
}
RNG = np.random.default_rng(0)


def part(behave=lambda arrays: arrays["w"], **options):
    return BehaviourClusters(OPTIONS | {key.replace("_", "-"): value for key, value in options.items()}, SGD, behave)


def a_reply(value, examples=1, factor=1.0):
    return Reply({"w": np.asarray(value, np.float32)}, examples, examples, factor=factor)


def mean_of(replies):
    weights = [reply.examples * reply.factor for reply in replies.values()]
    return {"w": np.average([reply.arrays["w"] for reply in replies.values()], 0, weights).astype(np.float32)}


def play(one, replies, sent=SENT):
    return one.finish(sent, mean_of(replies), replies, 9)


def groups(one):
    return list(one.tells()["clusters"].values())


# --- distances ----------------------------------------------------------------------------------------------------


def test_the_divergence_of_gaussians_by_hand():
    """N(0,1), N(1,1): 1/2. N(0,1), N(0,4): (1/4 + 4 - 2) / 4 = 0.5625."""
    assert divergences(np.array([[0.0], [1.0]]), np.ones((2, 1, 1)))[0, 1] == 0.5
    assert divergences(np.zeros((2, 1)), np.array([1.0, 4.0]).reshape(2, 1, 1))[0, 1] == 0.5625


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_are_none_to_oneself_symmetric_and_follow_the_order_of_the_sites(name):
    prints, base = RNG.normal(size=(5, 16, 3)), RNG.normal(size=(16, 3))
    found = DISTANCES[name](prints, base)
    assert (np.diag(found) == 0).all() and np.array_equal(found, found.T)
    assert (found[~np.eye(5, dtype=bool)] > 0).all()
    order = [3, 0, 4, 1, 2]
    assert DISTANCES[name](prints[order], base) == pytest.approx(found[np.ix_(order, order)], abs=1e-12)


def test_the_gaussian_distance_does_not_see_a_common_rotation():
    prints = RNG.normal(size=(4, 40, 3))
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    assert gaussian(prints @ turn, prints[0]) == pytest.approx(gaussian(prints, prints[0]), rel=1e-9)


@pytest.mark.parametrize("distance", [cosine, symmetric_kl])
def test_the_size_of_a_change_does_not_matter_but_its_direction_does(distance):
    prints, base = np.stack([V, 1e4 * V, 1e-4 * V, -V]), np.zeros((2, 2))
    found = distance(prints, base)
    assert found[0] == pytest.approx([0, 0, 0, found[0, 3]], abs=1e-9) and found[0, 3] > 0.5
    assert cosine(prints, base)[0, 3] == pytest.approx(2)


def test_the_symmetric_kl_by_hand():
    """One probe, changes (1, -1) and (-1, 1) at rms 1: p = s(2), s(-2); R = (2p - 1) 2 = 2 tanh 1."""
    found = symmetric_kl(np.array([[[3.0, -3.0]], [[-7.0, 7.0]]]), np.zeros((1, 2)))
    assert found[0, 1] == pytest.approx(2 * np.tanh(1))


def test_the_gaussian_distance_is_one_of_probes_that_do_not_span_the_logits():
    assert np.isfinite(gaussian(RNG.normal(size=(3, 4, 20)), np.zeros((4, 20)))).all()
    assert np.isfinite(gaussian(np.zeros((2, 4, 20)), np.zeros((4, 20)))).all()


# --- who is with whom ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["cosine", "symmetric-kl"])
@given(st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=6))
def test_two_planted_groups_are_found_at_any_sizes(distance, sizes):
    one = part(cluster_distance=distance)
    signs = dict(zip("abcdef", (1, -1, 1, 1, -1, -1), strict=True))
    replies = {name: a_reply(sign * size * V) for (name, sign), size in zip(signs.items(), sizes, strict=True)}
    play(one, replies)
    assert groups(one) == [["a", "c", "d"], ["b", "e", "f"]], "numbered by their smallest name"


def test_the_order_of_the_replies_does_not_matter():
    values = {name: a_reply(RNG.normal(size=(2, 2))) for name in "abcdef"}
    one, other = part(clusters=3), part(clusters=3)
    play(one, values)
    play(other, {name: values[name] for name in "fbdaec"})
    assert groups(one) == groups(other) and len(groups(one)) == 3


def test_there_are_no_more_clusters_than_sites_nor_than_asked_for():
    few = part(clusters=4)
    play(few, {"a": a_reply(V), "b": a_reply(-V)})
    assert groups(few) == [["a"], ["b"]]
    single = part(clusters=1)
    play(single, {"a": a_reply(V), "b": a_reply(-V)})
    assert groups(single) == [["a", "b"]]


def test_a_change_is_one_from_what_the_site_was_sent():
    """In an edge round a site that hardly moves from its cluster's mean is not taken for one that moved to it."""
    one = part(cluster_every=1)
    sent = play(one, {"a": a_reply(V), "b": a_reply(-V)})
    play(one, {"a": a_reply(V - 0.1 * V[::-1]), "b": a_reply(-V)}, sent)
    new, old = one.state()["print/a"], V / np.linalg.norm(V)
    assert new == pytest.approx((old - V[::-1] / np.linalg.norm(V)) / 2, abs=1e-5)


def test_a_newcomer_joins_the_nearest_and_clusters_are_cut_anew_after_so_many_rounds():
    one = part(cluster_every=3, edge_rounds=4)
    play(one, {"b": a_reply(V), "c": a_reply(-V)})
    assert one.base(SENT, "a") is SENT, "not met yet: the mean of all"
    play(one, {"a": a_reply(-3 * V)})
    assert groups(one) == [["b"], ["a", "c"]]
    assert one.base(SENT, "a")["w"] == pytest.approx(-3 * V)
    play(one, {"a": a_reply(-3 * V)})
    assert groups(one) == [["b"], ["a", "c"]]
    play(one, {"a": a_reply(-4 * V)})
    assert groups(one) == [["a", "c"], ["b"]], "numbered anew"


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_logits_that_are_no_numbers_say_nothing(bad):
    def behave(arrays):
        return np.where(np.abs(arrays["w"]) > 1e30, bad, arrays["w"].astype(float))

    one = part(behave, cluster_distance="gaussian")
    assert play(one, {"a": a_reply(V), "b": a_reply(-V), "c": a_reply(np.full((2, 2), 1e35))})["w"].shape == (2, 2)
    assert groups(one) == [["a"], ["b"]] and one.base(SENT, "c") is SENT
    none = part(behave, cluster_distance="gaussian")
    play(none, {"c": a_reply(np.full((2, 2), 1e35))})
    assert groups(none) == []


def test_sites_that_do_not_move_are_no_error():
    one = part()
    play(one, {"a": a_reply(0 * V), "b": a_reply(V), "c": a_reply(0 * V)})
    assert sorted(site for group in groups(one) for site in group) == ["a", "b", "c"]


# --- what a site is sent ------------------------------------------------------------------------------------------


def test_for_e_minus_one_rounds_a_site_gets_its_clusters_mean_and_then_all_the_mean_of_all():
    one, sent, seen = part(edge_rounds=3, cluster_every=99), SENT, []
    for _ in range(7):
        bases = {name: one.base(sent, name) for name in "abc"}
        seen.append("all" if all(base is sent for base in bases.values()) else "apart")
        steps = {"a": V, "b": 2 * V, "c": -V}
        sent = play(one, {name: a_reply(bases[name]["w"] + step) for name, step in steps.items()}, sent)
    assert seen == ["all", "apart", "apart", "all", "apart", "apart", "all"]


@given(st.lists(st.integers(1, 99), min_size=4, max_size=4), st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_the_mean_of_the_clusters_means_is_the_mean_of_all(images, factors):
    made = zip("abcd", images, factors, strict=True)
    replies = {name: Reply({"w": RNG.normal(size=(2, 2))}, n, n, factor=f) for name, n, f in made}
    sent = {"w": np.zeros((2, 2))}
    one = part()
    weights = {name: reply.examples * reply.factor for name, reply in replies.items()}
    flat = np.average([reply.arrays["w"] for reply in replies.values()], 0, list(weights.values()))
    assert one.finish(sent, {"w": flat}, replies, 9)["w"] is flat
    members = groups(one)
    assert len(members) == 2
    totals = [sum(weights[site] for site in group) for group in members]
    two = np.average([one.base(sent, group[0])["w"] for group in members], 0, totals)
    assert np.abs(two - flat).max() < 1e-12


def test_a_cluster_with_no_reply_keeps_its_mean_until_all_meet_and_one_of_no_weight_has_none():
    one = part(edge_rounds=4)
    play(one, {"a": a_reply(V, 3), "b": a_reply(2 * V, 1), "c": a_reply(-V, factor=0.0)})
    assert one.base(SENT, "a")["w"] == pytest.approx(1.25 * V) and one.base(SENT, "c") is SENT
    play(one, {"c": a_reply(-2 * V)})
    assert one.base(SENT, "b")["w"] == pytest.approx(1.25 * V)
    assert one.base(SENT, "c")["w"] == pytest.approx(-2 * V)


def test_edges_by_the_sites_own_word_are_clusters_and_nothing_is_probed():
    one = part(lambda arrays: pytest.fail("probed"), edge_assignment="node", edge_rounds=3)
    one.place({"a": "north", "b": "south", "c": "north"})
    play(one, {name: a_reply(value * V) for name, value in zip("abcd", (1, 5, 3, 99), strict=True)})
    assert one.tells() == {"clusters": {"north": ["a", "c"], "south": ["b"]}}
    assert one.base(SENT, "a")["w"] == pytest.approx(2 * V) and one.base(SENT, "b")["w"] == pytest.approx(5 * V)
    assert one.base(SENT, "d") is SENT, "of no edge"
    one.place({"a": "south"})
    assert one.base(SENT, "a")["w"] == pytest.approx(5 * V)


def test_a_word_of_edges_is_nothing_where_behaviour_decides():
    one = part()
    one.place({"a": "north"})
    assert groups(one) == []


# --- in a strategy ------------------------------------------------------------------------------------------------


class Whole(Codec):
    """Send all of an update."""

    def form(self, sent):
        return {"update": np.zeros(4, np.float32)}

    def encode(self, update, number):
        return {"update": np.asarray(update, np.float32)}

    def expand(self, coded, size, number):
        return coded["update"]


def train(clusters, rounds=4, seen=None, start=0.0, codec=None):
    """Play rounds of six plain clients: even ones step by +1, odd ones by -2."""
    app = ClientApp()

    def name(context):
        return f"site-{context.node_config['partition-id']}"

    @app.query("describe")
    def describe(message, context):
        edge = "even" if context.node_config["partition-id"] % 2 == 0 else "odd"
        told = Description(name(context), 4, 6, "cpu", edge=edge)
        return Message(RecordDict({CONFIG: told.to_config()}), reply_to=message)

    @app.train()
    def work(message, context):
        arrays = to_arrays(message.content[ARRAYS])
        number = context.node_config["partition-id"]
        if seen is not None:
            seen.append((message.content[CONFIG]["round"], number, arrays["w"][0, 0].item()))
        step = 1 if number % 2 == 0 else -2
        trained = {"w": arrays["w"] + np.float32(step)}
        trained = trained if codec is None else codec.shorten(trained, arrays, 1, {})[0]
        metrics = MetricRecord({"num-examples": 4, "loss": 1.0})
        return Message(RecordDict({ARRAYS: to_array_record(trained), METRICS: metrics}), reply_to=message)

    strategy = FedPuReL(
        Schedule(rounds, 0), fraction_train=1.0, part=clusters, num_sites=6, purifies=False, codec=codec
    )
    sent = to_array_record({"w": np.full((2, 2), start, np.float32)})
    result = strategy.start(LocalGrid(app, 6, {}), sent, num_rounds=rounds)
    return to_arrays(result.arrays)["w"], strategy


@pytest.mark.parametrize("assignment", ["behaviour", "node"])
def test_clusters_run_apart_and_meet_in_a_whole_strategy(assignment):
    """After a round +1 and -2, mean -1/2; from there +1 +1 and -2 -2, mean -1; again from -1."""
    seen: list[tuple[int, int, float]] = []
    found, strategy = train(part(edge_assignment=assignment), seen=seen)
    by_round = {number: [value for round_, _, value in sorted(seen) if round_ == number] for number in (1, 2, 3, 4)}
    assert by_round == {1: [0.0] * 6, 2: [1.0, -2.0] * 3, 3: [-1.0] * 6, 4: [0.0, -3.0] * 3}
    assert (found == -2).all() and strategy.report is not None
    names = ["0", "1"] if assignment == "behaviour" else ["even", "odd"]
    even, odd = ([f"site-{number}" for number in range(start, 6, 2)] for start in (0, 1))
    assert strategy.report.part == {"clusters": {names[0]: even, names[1]: odd}}


def test_a_shortened_reply_is_of_what_its_site_was_sent():
    found, _ = train(part(), codec=Whole())
    assert (found == train(part())[0]).all() and (found == -2).all()


def test_with_one_edge_round_it_is_fedavg_to_the_bit():
    plain: list[tuple[int, int, float]] = []
    ours: list[tuple[int, int, float]] = []
    without, _ = train(None, seen=plain, start=0.1)
    found, strategy = train(part(edge_rounds=1), seen=ours, start=0.1)
    assert np.array_equal(without, found) and sorted(plain) == sorted(ours)
    assert strategy.part is not None and not [key for key in strategy.part.state() if key.startswith("mean")]


@pytest.mark.parametrize("edge", ["../x", "a/b", "x" * 65, "a\n", 7, ["a"], b"a"])
def test_an_edge_is_a_name_like_that_of_a_site(edge):
    assert Description("a", 1, 0, "cpu", edge="north").to_config()["edge"] == "north"
    assert "edge" not in Description("a", 1, 0, "cpu").to_config(), "what is not said is not on the wire"
    with pytest.raises(ValueError, match="edge"):
        Description.from_config({"site": "a", "num-examples": 1, "partitions": 0, "device": "cpu", "edge": edge})


# --- state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ["behaviour", "node"])
@pytest.mark.parametrize("chained", [False, True])
def test_what_is_remembered_comes_back_in_the_middle_of_an_edge_round(assignment, chained):
    def fresh() -> Part:
        one = part(edge_rounds=3, edge_assignment=assignment)
        return Several([Part({}, SGD), one]) if chained else one

    one, other = fresh(), fresh()
    edges, rng = {"a": "north", "b": "south", "c": "north"}, np.random.default_rng(1)
    sent: Arrays = SENT
    for number in range(9):
        other = fresh()
        other.restore(one.state())
        for which in (one, other):
            which.place(edges)
        assert all(np.array_equal(one.base(sent, s)["w"], other.base(sent, s)["w"]) for s in "abcd"), number
        replies = {name: a_reply(one.base(sent, name)["w"] + rng.normal(size=(2, 2))) for name in "abcd"}
        new = one.finish(sent, mean_of(replies), replies, 9)
        other.finish(sent, mean_of(replies), replies, 9)
        assert one.tells() == other.tells()
        left, right = one.state(), other.state()
        assert left.keys() == right.keys() and all(np.array_equal(value, right[key]) for key, value in left.items())
        assert all(isinstance(value, np.ndarray) and value.dtype.kind in "fi" for value in left.values())
        sent = new
    fresh().restore({})
