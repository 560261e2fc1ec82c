"""What sites send of a private module with a knob: h and nothing else; and what a hostile end can do with it."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedpurel_app.core.fronts import front_from_metrics
from fedpurel_app.core.records import ARRAYS, CONFIG, METRICS, Description, to_array_record
from fedpurel_app.strategies import FedPuReL, Schedule
from fedpurel_app.strategies.aggregation import Aggregation
from fedpurel_app.strategies.screening import BadReplyError, check_scores
from tests.attacks.conftest import feature_site, initial
from tests.attacks.server import Server, metrics, told
from tests.support import LocalGrid
from tests.test_wire import record
from tests.wire import found

KNOB = {"h.inner.weight", "h.inner.bias", "h.outer.weight", "h.outer.bias"}


@pytest.fixture
def site(tmp_path):
    """A real site with a branch of round 1, and what its server sends."""
    config, node = feature_site(tmp_path)
    one = Server(config | {"algorithm": "copsl", "global-rounds": 2, "personal-rounds": 2}, node)
    arrays = initial(one)
    assert set(arrays) == {"residual", *KNOB}
    reply = one.personalize(arrays, 1, 0)
    assert not reply.has_error(), reply.error.reason
    return one, arrays


# --- what leaves ------------------------------------------------------------------------------------------------------


def test_a_personal_reply_holds_h_and_a_number_of_images_and_nothing_else(site):
    one, arrays = site
    reply = one.personalize(arrays, 2, 1)
    assert metrics(reply).keys() == {"num-examples"} and set(reply.content) == {ARRAYS, METRICS}
    sent = {name: value.numpy() for name, value in reply.content[ARRAYS].items()}
    assert set(sent) == KNOB and any(not np.array_equal(sent[name], arrays[name]) for name in KNOB)
    assert set(one.store().load(2)) == {"own.residual", "own.basis.residual", "memory/log-prior"}


def test_a_global_reply_knows_nothing_of_the_knob(site):
    one, arrays = site
    with_knob = one.train(arrays, 2, 1)
    assert set(with_knob.content[ARRAYS]) == {"residual"}


def test_no_byte_of_what_stays_is_on_the_wire(tmp_path):
    """Over three real sites, both phases: phi0, B and log pi are nowhere; h is, or the search would find nothing."""
    heard, secrets, replies = record(tmp_path, algorithm="copsl", **{"private-learning-rate": 0.5})
    for name in heard:
        kept = [one for one in secrets[name] if "own." in one or "log-prior" in one]
        assert len(kept) >= 6 and not found(b"\0".join(heard[name]), secrets[name])
    shared = {name: value.numpy().tobytes() for _, reply in replies if reply.has_content()
              for name, value in reply.content.get(ARRAYS, {}).items()}  # fmt: skip
    assert set(shared) >= KNOB and not [name for name in shared if name.startswith("own.")]
    everything = b"\0".join(b"\0".join(one) for one in heard.values())
    assert found(everything, {name: shared[name] for name in KNOB if len(shared[name]) > 64})
    told_of_fronts = [name for _, reply in replies for one in reply.content.metric_records.values() for name in one
                      if name.startswith("pareto/")]  # fmt: skip
    assert set(told_of_fronts) == {"pareto/correct", "pareto/agree"}, "of its own test part, in all"


def test_what_stays_open_h_tells_of_the_branch(site, tmp_path):
    """Two sites of the same data whose B differ: h alone differs in what they send. docs/security.md says so."""
    one, arrays = site
    kept = one.store().load(1)
    first = one.personalize(arrays, 2, 1)
    _, node = feature_site(tmp_path / "two")
    two = Server(one.config, node)
    two.personalize(arrays, 1, 0)
    two.store().save({name: value + (0.5 if "basis" in name else 0) for name, value in kept.items()}, 1, 0)
    second = two.personalize(arrays, 2, 1)
    left, right = told(first), told(second)
    differing = {name for name in left if not np.array_equal(left[name], right[name])}
    assert differing and all("h." in name for name in differing), differing


# --- a hostile server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "craft",
    [
        lambda arrays: {name: value for name, value in arrays.items() if name != "h.outer.bias"},
        lambda arrays: arrays | {"h.outer.bias": np.zeros(9, np.float32)},
        lambda arrays: arrays | {"own.residual": np.zeros_like(arrays["residual"])},
        lambda arrays: arrays | {"h.inner.bias": np.full(64, np.nan, np.float32)},
        lambda arrays: {name: value for name, value in arrays.items() if name in KNOB},
    ],
    ids=["no h", "another shape", "a private name", "no number", "no global model"],
)
def test_a_message_of_another_form_is_refused_and_the_branch_stays(site, craft):
    one, arrays = site
    before = one.store().load(1)
    reply = one.personalize(craft(arrays), 2, 1)
    assert (
        reply.has_error() and "at the site" in reply.error.reason and not any(one in reply.error.reason for one in KNOB)
    )
    assert all(np.array_equal(value, before[name]) for name, value in one.store().load(1).items())
    assert 2 not in one.store().stamps()


def test_a_knob_that_makes_the_branch_diverge_is_sent_back_as_it_came_and_the_visit_undone(site, caplog):
    one, arrays = site
    before = one.store().load(1)
    huge = arrays | {name: np.full_like(arrays[name], 1e30) for name in KNOB}
    with caplog.at_level("WARNING", "flwr.fedpurel.client"):
        reply = one.personalize(huge, 2, 1)
    assert not reply.has_error() and any("this visit is undone" in record.getMessage() for record in caplog.records)
    assert all(np.array_equal(reply.content[ARRAYS][name].numpy(), huge[name]) for name in KNOB)
    assert all(np.array_equal(value, before[name]) for name, value in one.store().load(2).items())


@pytest.mark.parametrize(("scores", "tells"), [("full", True), ("global", False), ("none", False)])
def test_a_front_leaves_with_the_scores_of_the_personalized_model(site, scores, tells):
    one, arrays = site
    one.node["scores"] = scores
    # Of the last round alone: 2 + 2 are played.
    assert "pareto/correct" not in metrics(one.evaluate(arrays, 3, 1))
    answer = metrics(one.evaluate(arrays, 4, 1))
    assert ("pareto/correct" in answer) == tells and "pareto/everywhere" not in answer
    if tells:
        assert len(answer["pareto/correct"]) == len(answer["pareto/agree"]) == 33
        assert answer["pareto/correct"][10] == answer["personalized/correct"], "the knob at (1, 0)"


def test_a_front_is_rounded_as_scores_are(site):
    one, arrays = site
    one.node["round-scores"] = 5
    answer = metrics(one.evaluate(arrays, 4, 1))
    assert all(count % 5 == 0 for name in ("correct", "agree") for count in answer[f"pareto/{name}"])
    total = np.array([answer["global/total"]])
    assert front_from_metrics(answer, total) is not None


# --- hostile sites ----------------------------------------------------------------------------------------------------

START = {"w": np.array([np.pi, np.e], np.float32), "h.a": np.arange(4, dtype=np.float32).reshape(2, 2)}
HUGE = np.full((2, 2), 3e38, np.float32)


def array(value: Any) -> ArrayRecord:
    return to_array_record({"h.a": np.asarray(value)})


LIES: dict[str, RecordDict] = {
    "nothing": RecordDict({}),
    "the global model, too": RecordDict({ARRAYS: to_array_record(START)}),
    "the global model": RecordDict({ARRAYS: to_array_record({"w": START["w"]})}),
    "a private name": RecordDict({ARRAYS: to_array_record({"own.residual": START["h.a"]})}),
    "a private name beside it": RecordDict({ARRAYS: to_array_record({**{"h.a": START["h.a"]}, "own.x": START["w"]})}),
    "another shape": RecordDict({ARRAYS: array(np.zeros((4,), np.float32))}),
    "another type": RecordDict({ARRAYS: array(np.zeros((2, 2)))}),
    "no number": RecordDict({ARRAYS: array(np.full((2, 2), np.nan, np.float32))}),
    "infinity": RecordDict({ARRAYS: array(np.full((2, 2), np.inf, np.float32))}),
    "two records": RecordDict({ARRAYS: array(START["h.a"]), "more": array(START["h.a"])}),
    "bytes that are none": RecordDict({ARRAYS: ArrayRecord({"h.a": Array("float32", (2, 2), "numpy.ndarray", b"x")})}),
}


def federation(lies):
    """A ClientApp: sites 0 to 2 add their number and 1 to h, those after them lie."""
    app, names = ClientApp(), list(lies)

    def reply(message, content, number):
        return Message(RecordDict({**content, METRICS: MetricRecord({"num-examples": number})}), reply_to=message)

    @app.query("describe")
    def describe(message, context):
        index = int(context.node_config["partition-id"])
        return Message(RecordDict({CONFIG: Description(f"s{index:02d}", 9, 0, "cpu").to_config()}), reply_to=message)

    @app.train()
    def train(message, context):
        return reply(message, {ARRAYS: message.content[ARRAYS]}, 4)

    @app.train("personalize")
    def personalize(message, context):
        index = int(context.node_config["partition-id"])
        if index > 2:
            return reply(message, lies[names[index - 3]], 4)
        return reply(message, {ARRAYS: array(message.content[ARRAYS]["h.a"].numpy() + 1 + index)}, 1 + index)

    return app


def play(lies, **options):
    grid = LocalGrid(federation(lies), 3 + len(lies), {})
    strategy = FedPuReL(Schedule(0, 2), fraction_train=1.0, num_sites=3 + len(lies), personal_names={"h.a"}, **options)
    reports: list[Any] = []

    def after(number, arrays):
        if number:
            reports.append((strategy.report, {name: value.numpy() for name, value in arrays.items()}))

    strategy.start(grid, to_array_record(START), num_rounds=2, evaluate_fn=after)
    return reports


def test_replies_of_another_form_cost_their_sites_the_round_and_change_no_bit():
    honest, attacked = play({}), play(LIES)
    for (_, ours), (report, theirs) in zip(honest, attacked, strict=True):
        assert {name: value.tobytes() for name, value in ours.items()} == {
            name: value.tobytes() for name, value in theirs.items()
        }
        assert report.usable == ["s00", "s01", "s02"] and not report.kept_old_model
        reasons = dict(reversed(report.dropped))  # of training; what follows is of the evaluation
        assert set(reasons) >= {f"s{3 + number:02d}" for number in range(len(LIES))}
        assert "own.residual" in reasons["s06"] and "NaN or Inf" in reasons["s10"]
    # (1 x 1 + 2 x 2 + 3 x 3) / 6 more in each of two rounds; w was sent, and nobody may change it.
    assert np.allclose(attacked[-1][1]["h.a"], START["h.a"] + 2 * 14 / 6) and list(attacked[-1][1]) == list(START)
    assert attacked[-1][1]["w"].tobytes() == START["w"].tobytes()


def test_huge_numbers_are_of_the_right_form_and_a_median_bears_them():
    """A mean follows them, as it does those of global rounds; where they overflow, the round keeps the old h."""
    huge = {f"huge {number}": RecordDict({ARRAYS: array(HUGE)}) for number in range(2)}
    report, arrays = play(huge)[0]
    assert np.isfinite(arrays["h.a"]).all() and len(report.usable) == 5
    _, arrays = play(huge, personal_inner=Aggregation("median").strategy())[0]
    assert np.allclose(arrays["h.a"], START["h.a"] + 3)


def test_an_aggregate_that_is_no_number_keeps_the_old_one():
    from flwr.serverapp.strategy import FedAvg

    class Broken(FedAvg):
        def aggregate_train(self, server_round, replies):
            return array(np.full((2, 2), np.nan, np.float32)), None

    inner = Broken(min_train_nodes=1, min_available_nodes=1)
    report, arrays = play({}, personal_inner=inner, max_failed_rounds=9)[0]
    assert report.kept_old_model and arrays["h.a"].tobytes() == START["h.a"].tobytes()
    assert any(site == "server" and "NaN or Inf" in reason for site, reason in report.dropped)


def test_an_aggregation_that_clips_is_refused():
    clips = Aggregation("norm-clipping").strategy()
    with pytest.raises(ValueError, match="personal_inner clips"):
        FedPuReL(Schedule(1, 1), personal_names={"h.a"}, personal_inner=clips)


SCORED: dict[str, Any] = {"num-examples": 6, "global/correct": [1, 2], "global/total": [3, 3],
                          "personalized/correct": [2, 2], "personalized/total": [3, 3]}  # fmt: skip


@pytest.mark.parametrize(
    "front",
    [
        {"pareto/correct": [1, 2, 3, 3]},
        {"pareto/agree": [1, 2]},
        {"pareto/correct": [], "pareto/agree": []},
        {"pareto/correct": 3, "pareto/agree": [1]},
        {"pareto/correct": [1, 2, 3], "pareto/agree": [1, 2]},
        {"pareto/correct": [1, 4], "pareto/agree": [1]},
        {"pareto/correct": [1, -1], "pareto/agree": [1]},
        {"pareto/correct": [1.0, 2.0], "pareto/agree": [1]},
        {"pareto/correct": [1, 2], "pareto/agree": [7]},
        {"pareto/correct": [1, 2], "pareto/agree": [2**60]},
        {"pareto/correct": [1] * 2 * 300, "pareto/agree": [1] * 300},
        {"pareto/correct": [1, 2], "pareto/agree": [1], "pareto/everywhere": [-3]},
    ],
    ids=str,
)
def test_a_front_that_cannot_be_costs_its_site_the_evaluation(front):
    with pytest.raises(BadReplyError, match="impossible scores"):
        check_scores(MetricRecord(SCORED | front), "num-examples", 2)


def test_a_front_that_can_be_is_read():
    front = {"pareto/correct": [1, 2, 3, 3], "pareto/agree": [4, 6], "pareto/everywhere": [9, 9, 0, 1]}
    found_ = check_scores(MetricRecord(SCORED | front), "num-examples", 2).front
    assert found_ is not None and found_.everywhere is not None
    assert found_.correct.tolist() == [[1, 2], [3, 3]] and found_.agree.tolist() == [4, 6]
    assert found_.everywhere.tolist() == [[9, 9], [0, 1]]
    assert check_scores(MetricRecord(SCORED), "num-examples", 2).front is None
