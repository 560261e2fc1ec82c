"""Trust in replies by hand, what bounds it, and parts one after the other."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from fedpurel_app.core.layout import among
from fedpurel_app.core.records import ARRAYS, METRICS, to_array_record, to_arrays
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies import FedPuReL, Schedule
from fedpurel_app.strategies.parts import Part, Reply, load_part
from fedpurel_app.strategies.parts.relocation import Relocation
from fedpurel_app.strategies.parts.several import Several, chained
from fedpurel_app.strategies.parts.trust import Trust, divergences, factors, lengths
from tests.support import LocalGrid

SGD = SgdSettings(0.1, 0.0, 0.0, 2, 1)
SENT = {"w": np.zeros(1, np.float32)}
apart = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9)


def a_reply(value, examples=1):
    return Reply({"w": np.array([value], np.float32)}, examples, examples)


def trust(behave, tolerance=10.0):
    return Trust({"trust-tolerance": tolerance}, SGD, behave)


def slope(arrays):
    """Two classes on two probes: the parameter is the logit of the first, and its negative."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32) * arrays["w"]


def test_a_reply_twenty_times_as_far_as_the_median_weighs_a_quarter():
    assert factors(np.array([1.0, 1.0, 1.0, 20.0]), 10).tolist() == [1, 1, 1, 0.25]
    assert factors(np.array([1.0, 1.0, 1.0, 10.0]), 10).tolist() == [1, 1, 1, 1]


def test_where_all_are_equal_all_weigh_alike_and_where_most_did_not_move_the_others_are_measured_by_each_other():
    assert factors(np.zeros(3), 10).tolist() == [1, 1, 1]
    assert factors(np.array([0, 0, 0, 1.0, 2.0]), 10).tolist() == [1, 1, 1, 1, 1]
    assert factors(np.array([0, 0, 0, 0, 0, 1.0, 1.0, 1.0, 20.0]), 10).tolist() == [1] * 8 + [0.25]


def test_where_half_of_a_cohort_lies_the_median_is_not_theirs():
    assert factors(np.array([1.0, 1.0, 100.0, 100.0]), 10, "lower") == pytest.approx([1, 1, 0.01, 0.01])
    replies = {"a": a_reply(1.0), "b": a_reply(1.2), "c": a_reply(-100.0), "d": a_reply(-90.0)}
    found = trust(slope).weights(SENT, replies)
    assert found["a"] == found["b"] == 1 and found["c"] < found["d"] < 0.02


def test_half_of_six_liars_weigh_little_by_their_predictions_alone():
    """Updates of one length; the median of predictions lies between both halves, the lower median of distances not."""

    def behave(arrays):
        return slope({"w": np.where(arrays["w"] < 0, 6, 1) * arrays["w"]})

    values = (1.0, 1.2, 0.9, -1.0, -1.1, -1.2)
    replies = {f"{place}": a_reply(value) for place, value in enumerate(values)}
    found = list(trust(behave, 2.0).weights(SENT, replies).values())
    assert found[:3] == [1, 1, 1] and max(found[3:]) < 0.3


def test_what_cannot_be_used_weighs_nothing_and_moves_no_median():
    assert factors(np.array([1.0, 1.0, np.inf, 20.0]), 10).tolist() == [1, 1, 0, 0.25]


@given(apart, st.floats(1, 100))
def test_factors_are_shares_that_half_of_the_sites_keep_whole_and_pull_falls_with_distance(values, tolerance):
    found = factors(np.array(values), tolerance)
    assert ((found >= 0) & (found <= 1)).all() and 2 * (found == 1).sum() >= len(values)
    assert (found * values <= tolerance * np.median(values) * (1 + 1e-9)).all(), "weight times distance is bounded"


@given(apart, st.randoms())
def test_the_order_of_the_sites_does_not_matter(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    found = factors(np.array(values), 10)
    assert np.array_equal(factors(np.array(values)[order], 10), found[order])


def test_divergences_by_hand():
    """p = (1/2, 1/2), (1/2, 1/2), (3/4, 1/4): q = (1/2, 1/2); KL(q || p) = 0, 0, 1/2 ln(2/3) + 1/2 ln 2 = ln(4/3)/2."""
    probe = np.log([[[0.5, 0.5]], [[0.5, 0.5]], [[0.75, 0.25]]]) + 7  # what is added to all logits changes nothing
    assert divergences(probe) == pytest.approx([0, 0, np.log(4 / 3) / 2], abs=1e-12)
    twice = np.concatenate([probe, np.zeros((3, 1, 2))], axis=1)  # a second probe, on which all agree
    assert divergences(twice) == pytest.approx([0, 0, np.log(4 / 3) / 4], abs=1e-12)


def test_the_median_is_made_a_distribution_again():
    """Medians of (.6, .3, .1), (.3, .6, .1), (.1, .1, .8) are .3, .3, .1: q = (3, 3, 1) / 7."""
    p = np.array([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8]])
    q = np.array([3, 3, 1]) / 7
    assert divergences(np.log(p)[:, None]) == pytest.approx((q * np.log(q / p)).sum(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_predictions_that_are_no_numbers_are_infinitely_far_and_have_no_part_in_the_median(bad):
    logits = np.array([[[0.0, 1.0]], [[0.0, 1.0]], [[bad, 1.0]]])
    assert divergences(logits).tolist()[2] == np.inf
    assert divergences(logits)[:2] == pytest.approx([0, 0], abs=1e-12)


def test_certain_and_opposite_predictions_are_far_and_finite():
    logits = np.array([[[1e4, 0.0, 0.0]], [[0.0, 1e4, 0.0]], [[0.0, 0.0, 1e4]]])
    assert np.isfinite(divergences(logits)).all(), "where no two agree there is no median to be far from"
    assert divergences(logits[[0, 0, 1]]) == pytest.approx([0, 0, 1e4])


def test_a_liar_weighs_little_and_numbers_of_images_have_no_say():
    replies = {"a": a_reply(1.0), "b": a_reply(1.2), "c": a_reply(0.9), "d": a_reply(1.1), "e": a_reply(-100.0)}
    found = trust(slope).weights(SENT, replies)
    assert all(found[site] == 1 for site in "abcd") and 0 < found["e"] < 1e-3
    more = {site: a_reply(reply.arrays["w"][0], 50) for site, reply in replies.items()}
    assert trust(slope).weights(SENT, more) == found


@pytest.mark.parametrize("size", [1e2, 1e4, 1e8, 1e20, 3e38])
@pytest.mark.parametrize("behave", [slope, lambda arrays: np.tanh(slope(arrays))])
def test_the_pull_of_a_reply_is_bounded_however_long_it_is(size, behave):
    """Also where logits are bounded, as cosines are, and what they tell does not grow."""
    replies = {"a": a_reply(1.0), "b": a_reply(1.2), "c": a_reply(0.9), "e": a_reply(-size)}
    found = trust(behave).weights(SENT, replies)
    assert found["e"] * size <= 10 * 1.1


def test_lengths_are_norms_over_all_arrays():
    reply = Reply({"v": np.array([3.0], np.float32), "w": np.array([[4.0]], np.float32)}, 1, 1)
    sent = {"v": np.zeros(1, np.float32), "w": np.zeros((1, 1), np.float32)}
    assert lengths(sent, {"a": reply}).tolist() == [5]


def test_models_without_a_finite_prediction_weigh_nothing_and_where_all_are_the_round_is_lost():
    def behave(arrays):
        return np.full((2, 2), np.nan) if arrays["w"] > 5 else slope(arrays)

    replies = {"a": a_reply(1.0), "b": a_reply(1.0), "c": a_reply(9.0)}
    assert trust(behave).weights(SENT, replies) == {"a": 1, "b": 1, "c": 0}
    with pytest.raises(ValueError, match="finite"):
        trust(behave).weights(SENT, {"a": a_reply(9.0), "b": a_reply(8.0)})


# --- in the strategy ----------------------------------------------------------------------------------------------


def trained(part, values):
    """Run a round over clients that answer these values, on one image more each; return strategy and result."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        place = message.metadata.dst_node_id // 7919 - 1  # as the grid deals out ids
        seen.append(set(message.content))
        numbers = MetricRecord({"num-examples": place + 1, "loss": 1.0})
        arrays = to_array_record({"w": np.array([values[place]], np.float32)})
        return Message(RecordDict({ARRAYS: arrays, METRICS: numbers}), reply_to=message)

    seen: list[set[str]] = []
    strategy = FedPuReL(Schedule(1, 0), fraction_train=1.0, connect_timeout=0.1, purifies=False, part=part)
    result = strategy.start(LocalGrid(app, len(values), {}), ArrayRecord({"w": to_array_record(SENT)["w"]}),
                            num_rounds=1, train_config=ConfigRecord())  # fmt: skip
    assert strategy.report is not None
    return strategy.report, to_arrays(result.arrays).get("w"), seen


def test_where_nobody_is_far_the_bits_are_fedavgs_and_no_message_is_another():
    values = [1.0, 1.3, 0.7, 1.1]
    plain, mean, before = trained(None, values)
    report, found, seen = trained(trust(slope), values)
    assert found.tobytes() == mean.tobytes() and seen == before
    assert set(report.trust.values()) == {1.0} and len(report.trust) == 4 and plain.trust == {}
    assert (report.bytes_up, report.bytes_down) == (plain.bytes_up, plain.bytes_down)


def test_a_liar_moves_the_mean_by_little_and_stands_in_the_report():
    values = [1.0, 1.3, 0.7, 1.1, -1000.0]
    assert trained(None, values)[1] < -300
    report, found, _ = trained(trust(slope), values)
    assert 0.9 < found < 1.1 and sorted(report.trust.values())[0] < 1e-4 and not report.kept_old_model


def test_where_no_reply_can_be_used_the_model_stays():
    report, found, _ = trained(trust(lambda arrays: np.full((2, 2), np.nan)), [1.0, 2.0])
    assert report.kept_old_model and found is None and report.trust == {}
    assert any("finite" in reason for _, reason in report.dropped)


# --- parts one after the other ------------------------------------------------------------------------------------


class Adding(Part):
    def __init__(self, number, names):
        super().__init__({f"key-{number}": number}, SGD)
        self.number, self.names, self.met = number, names, np.zeros(1)

    def meet(self, sent, counts):
        self.met = self.met + len(counts)

    def brief(self, sent, site):
        return {name: np.array([self.number]) for name in self.names}

    def weights(self, sent, replies):
        return dict.fromkeys(sorted(replies)[: self.number], 0.5)

    def finish(self, sent, mean, replies, examples):
        return {name: value * 10 + self.number for name, value in mean.items()}

    def state(self):
        return {"met": self.met}

    def restore(self, state):
        self.met = state.get("met", np.zeros(1))


def test_parts_fold_in_their_order_and_their_factors_multiply():
    parts = [Adding(1, "ab"), Adding(2, "bc")]
    both = Several(parts)
    both.meet(SENT, {"x": [1], "y": [2]})
    assert [part.met.item() for part in parts] == [2, 2]
    assert {name: value.item() for name, value in both.brief(SENT, "x").items()} == {"a": 1, "b": 2, "c": 2}
    replies = {"x": a_reply(1.0), "y": a_reply(1.0), "z": a_reply(1.0)}
    assert both.weights(SENT, replies) == {"x": 0.25, "y": 0.5}
    assert both.finish(SENT, {"w": np.array([3.0])}, replies, 3)["w"] == 312, "3, then 31, then 312"
    assert both.options == {"key-1": 1, "key-2": 2}
    again = Several([Adding(1, "ab"), Adding(2, "bc")])
    again.restore(both.state())
    assert {key: value.item() for key, value in again.state().items()} == {"0/met": 2, "1/met": 2}


def test_one_part_is_itself_and_none_is_none():
    part = Adding(1, "a")
    assert chained([None, part]) is part and chained([None, None]) is None
    assert isinstance(chained([part, part]), Several)


# --- what parts of methods make of a factor -----------------------------------------------------------------------


def test_scaffolds_control_variate_moves_by_the_weight_of_a_reply():
    """One step of 0.1: slopes (0 + 0.1) / 0.1 = 1 of each of two sites with half of the images."""
    part = load_part("scaffold", {}, SGD)
    assert part is not None
    replies = {"a": a_reply(-0.1, 2), "b": a_reply(-0.1, 2)._replace(factor=0.5)}
    part.finish(SENT, SENT, replies, 4)
    assert part.brief(SENT, "a")["w"] == pytest.approx(0.5 + 0.25)


def test_a_prompt_that_weighs_less_than_half_is_passed_on_to_nobody():
    part = load_part("nearest", {"experts": 3}, SGD)
    assert part is not None
    replies = {"a": a_reply(1.0), "b": a_reply(2.0), "c": a_reply(9.0)._replace(factor=0.4)}
    part.finish(SENT, SENT, replies, 3)
    assert part.brief(SENT, "a")["expert/w"].tolist() == [[2.0]]


def test_a_clusters_prompts_are_averaged_by_weight_and_stay_where_nobody_has_any():
    part = load_part("clusters", {"clusters": 2}, SGD)
    assert part is not None
    sent = {"classes": np.zeros((2, 1), np.float32)}
    one, other = (Reply({"classes": np.full((2, 1), value, np.float32)}, 1, 1, 1.0) for value in (1.0, 5.0))
    part.meet(sent, {"a": [9, 1], "b": [9, 1], "c": [1, 9]})
    part.finish(sent, sent, {"a": one, "b": other._replace(factor=0.0), "c": other._replace(factor=0.0)}, 3)
    assert part.brief(sent, "b")["classes"].tolist() == [[1.0], [1.0]]
    assert part.brief(sent, "c")["classes"].tolist() == [[0.0], [0.0]]


def test_a_layout_keeps_its_name_in_a_chain_and_comes_back():
    """Who reads a finished model finds it there, whatever else the server did."""
    options = {
        "relocate-every": 1,
        "relocation-warmup": 0,
        "prompt-relocation": "random",
        "seed": 0,
        "global-rounds": 9,
    }
    tokens = {"tokens": np.arange(24, dtype=np.float32).reshape(6, 4)}

    def chain():
        trust = Trust({"trust-tolerance": 10}, SGD, lambda _: np.zeros((1, 2)))
        return Several([Relocation(options | {"prompt-tokens": 2}, SGD), trust])

    one, other = chain(), chain()
    one.meet(tokens, {})
    assert set(one.layout()) == {"home"} and among(one.state()).keys() == one.layout().keys()
    other.restore(one.state())
    assert np.array_equal(other.layout()["home"], one.layout()["home"])
    assert one.lists(tokens) == other.lists(tokens)
