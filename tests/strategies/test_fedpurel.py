"""The strategy under a client of two numbers: no torch, no CLIP."""

import re
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
)

from fedpurel_app.core.errors import RunError
from fedpurel_app.core.metrics import ClassCounts
from fedpurel_app.core.records import (
    ARRAYS,
    CONFIG,
    METRICS,
    Description,
    Instruction,
    counts_to_metrics,
    to_array_record,
)
from fedpurel_app.strategies import FedPuReL, Phase, Schedule
from tests.support import LocalGrid

SITES = 5
START = {"w": np.array([1.0, 2.0], np.float32)}


def site_of(context):
    return int(context.node_config["partition-id"])


def client(spoil=None, examples=lambda site: site + 1):
    """A ClientApp whose site k adds k to both numbers; `spoil` may change its replies."""
    app = ClientApp()

    @app.query("describe")
    def describe(message, context):
        description = Description(f"s{site_of(context)}", examples(site_of(context)), 0, "cpu")
        return Message(RecordDict({CONFIG: description.to_config()}), reply_to=message)

    def reply(message, context, content):
        instruction = Instruction.from_config(message.content[CONFIG])
        if spoil is not None:
            content = spoil(site_of(context), instruction, content) or content
        return Message(content, reply_to=message)

    @app.train()
    def train(message, context):
        site = site_of(context)
        arrays = {name: value.numpy() + site for name, value in message.content[ARRAYS].items()}
        metrics = MetricRecord({"num-examples": examples(site), "loss": float(site)})
        return reply(message, context, RecordDict({ARRAYS: to_array_record(arrays), METRICS: metrics}))

    @app.train("personalize")
    def personalize(message, context):
        metrics = MetricRecord({"num-examples": examples(site_of(context)), "loss": 1.0})
        return reply(message, context, RecordDict({METRICS: metrics}))

    @app.evaluate()
    def evaluate(message, context):
        instruction = Instruction.from_config(message.content[CONFIG])
        counts = ClassCounts(np.array([1, 0]), np.array([2, 2]))
        metrics: dict[str, Any] = {"num-examples": 4, **counts_to_metrics("global", counts, True)}
        if instruction.private_round:
            metrics |= counts_to_metrics("personalized", ClassCounts(np.array([2, 2]), np.array([2, 2])), True)
        return reply(message, context, RecordDict({METRICS: MetricRecord(metrics)}))

    return app


def run(strategy, app=None, sites=SITES, shuffle=0, rounds=None, start=START):
    """Run a strategy; returns the final arrays and the reports of all rounds."""
    reports = []
    grid = LocalGrid(app or client(), sites, {}, shuffle=shuffle)
    result = strategy.start(
        grid,
        to_array_record(start),
        num_rounds=rounds or strategy.schedule.total,
        evaluate_fn=lambda number, arrays: reports.append(strategy.report) if number else None,
    )
    return {name: array.numpy() for name, array in result.arrays.items()}, reports


def strategy(schedule=None, inner=None, **options):
    settings: dict[str, Any] = {"fraction_train": 1.0, "num_sites": SITES, "seed": 3} | options
    return FedPuReL(schedule or Schedule(1, 0), inner, **settings)


# --- aggregation --------------------------------------------------------------------------------------------------


def test_the_mean_is_weighted_by_examples():
    """Sites 0..4 with weights 1..5: (0·1 + 1·2 + 2·3 + 3·4 + 4·5) / 15 = 40 / 15."""
    arrays, (report,) = run(strategy())
    assert arrays["w"] == pytest.approx(START["w"] + 40 / 15, rel=1e-6)
    assert report.train["loss"] == pytest.approx(40 / 15)


def test_same_bits_whatever_the_node_ids():
    irrational = {"w": np.array([np.pi, np.e], np.float32)}
    results = [run(strategy(Schedule(5, 0)), shuffle=n, start=irrational)[0]["w"].tobytes() for n in range(4)]
    assert len(set(results)) == 1


def test_personal_rounds_leave_the_global_model_alone():
    arrays, reports = run(strategy(Schedule(1, 3)))
    assert arrays["w"] == pytest.approx(START["w"] + 40 / 15)
    assert [report.phase for report in reports] == [Phase.GLOBAL] + 3 * [Phase.PERSONAL]


@pytest.mark.parametrize("kind", ["two-phase", "interleaved"])
def test_messages_name_the_private_branch_that_the_server_knows(kind):
    heard = []

    def listen(site, instruction, content):
        if instruction.phase == "personal" and METRICS in content and "loss" in content[METRICS]:
            heard.append((site, instruction.round, instruction.private_round))

    plan = strategy(Schedule(3, 3, kind), fraction_train=0.4)
    run(plan, client(listen))
    last: dict[int, int] = {}
    for site, number, named in heard:
        assert named == last.get(site, 0)
        last[site] = number
    assert {f"s{site}": number for site, number in last.items()} == plan.private_rounds


def test_interleaved_pairs_share_a_cohort():
    _, reports = run(strategy(Schedule(3, 3, "interleaved"), fraction_train=0.4))
    cohorts = [report.cohort for report in reports]
    assert cohorts[0::2] == cohorts[1::2] and len({tuple(c) for c in cohorts}) > 1


def test_all_sites_may_train_in_the_first_round_of_each_phase():
    _, reports = run(strategy(Schedule(2, 2), fraction_train=0.4, full_first_round=True))
    assert [len(report.cohort) for report in reports] == [5, 2, 5, 2]


# --- evaluation ---------------------------------------------------------------------------------------------------


def test_sites_without_a_branch_are_scored_with_the_global_model_and_flagged():
    _, reports = run(strategy(Schedule(1, 1), fraction_train=0.4))
    scores = reports[-1].scores
    trained = set(reports[-1].cohort)
    assert {site for site, one in scores.items() if one.has_private_branch} == trained and len(trained) == 2
    for site, one in scores.items():
        assert one.personalized.accuracy == (1.0 if site in trained else 0.25)


# --- bad replies --------------------------------------------------------------------------------------------------


def arrays_of(content, change):
    record = content[ARRAYS]
    content[ARRAYS] = change(record)


def spoil_arrays(change):
    def spoil(site, instruction, content):
        if site == 2 and ARRAYS in content:
            arrays_of(content, change)

    return spoil


def spoil_metrics(**values):
    def spoil(site, instruction, content):
        if site == 2 and ARRAYS in content:
            content[METRICS] = MetricRecord({**content[METRICS], **{k.replace("_", "-"): v for k, v in values.items()}})

    return spoil


def with_value(value):
    return lambda record: to_array_record({"w": np.array([value, 1.0], np.float32)})


def raising(site, instruction, content):
    if site == 2:
        raise ValueError("CUDA out of memory")


def lying_header(record):
    """The shape that was sent, in bytes that hold another."""
    other = Array(np.zeros(3, np.float32))
    return ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", other.data)})


def beside(record):
    def spoil(site, instruction, content):
        if site == 2 and ARRAYS in content:
            content["junk"] = record

    return spoil


BAD = {
    "raises": (raising, "CUDA out of memory"),
    "nan": (spoil_arrays(with_value(np.nan)), "NaN or Inf in ['w']"),
    "inf": (spoil_arrays(with_value(np.inf)), "NaN or Inf"),
    "other shape": (spoil_arrays(lambda r: to_array_record({"w": np.zeros(3, np.float32)})), "expected float32(2,)"),
    "other type": (spoil_arrays(lambda r: to_array_record({"w": np.zeros(2)})), "float64(2,), expected float32"),
    "other names": (spoil_arrays(lambda r: to_array_record({"v": START["w"]})), "array names differ: ['v', 'w']"),
    "more names": (spoil_arrays(lambda r: to_array_record({**START, "extra": START["w"]})), "array names differ"),
    "no arrays": (lambda s, i, c: RecordDict({METRICS: c[METRICS]}) if s == 2 else None, "expected one ArrayRecord"),
    "junk": (spoil_arrays(lambda r: ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", b"junk")})), "decoded"),
    "huge": (
        spoil_arrays(lambda r: ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", b"0" * 10**6)})),
        "1000000 bytes",
    ),
    "100 MB of junk": (
        spoil_arrays(lambda r: ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", b"junk" * (25 * 10**6))})),
        "100000000 bytes",
    ),
    "100 MB of other records": (beside(ConfigRecord({"junk": b"junk" * (25 * 10**6)})), "bytes beside its arrays"),
    "100 MB of metrics": (spoil_metrics(junk=[1] * (125 * 10**5)), "bytes beside its arrays"),
    "lying header": (spoil_arrays(lying_header), "cannot be decoded"),
    "no examples": (spoil_metrics(num_examples=0), "num-examples = 0"),
    "negative examples": (spoil_metrics(num_examples=-5), "num-examples = -5"),
    "absurd examples": (spoil_metrics(num_examples=10**15), "expected 1 to"),
    "more than described": (spoil_metrics(num_examples=7), "described itself with 3"),
    "nan examples": (spoil_metrics(num_examples=float("nan")), "expected a number"),
    "list of examples": (spoil_metrics(num_examples=[1, 2]), "expected a number"),
    "no metrics": (lambda s, i, c: RecordDict({ARRAYS: c[ARRAYS]}) if s == 2 else None, "expected one MetricRecord"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reply_is_dropped_with_its_reason(name):
    """Without site 2: (0·1 + 1·2 + 3·4 + 4·5) / 12 = 34 / 12."""
    spoil, reason = BAD[name]
    arrays, (report,) = run(strategy(), client(spoil))
    assert arrays["w"] == pytest.approx(START["w"] + 34 / 12, rel=1e-6)
    assert report.usable == ["s0", "s1", "s3", "s4"]
    ((site, told), *_) = report.dropped
    assert site == "s2" and reason in told


def test_a_metric_that_not_all_send_is_left_out_and_costs_nothing():
    _, (report,) = run(strategy(), client(spoil_metrics(extra=1.0)))
    assert len(report.usable) == SITES and set(report.train) == {"loss", "num-examples"} - {"num-examples"}


def test_arrays_in_a_personal_round_are_refused():
    def leak(site, instruction, content):
        if instruction.phase == "personal" and site == 2 and "loss" in content[METRICS]:
            content[ARRAYS] = to_array_record(START)

    _, reports = run(strategy(Schedule(0, 1)), client(leak))
    assert reports[0].dropped == [("s2", "sent arrays in a personal round; private branches stay at their site")]


def test_junk_is_refused_in_personal_rounds_and_evaluation_too():
    def junk(site, instruction, content):
        if site == 2:
            content["junk"] = ConfigRecord({"junk": bytes(9 * 2**20)})

    _, (report,) = run(strategy(Schedule(0, 1)), client(junk))
    assert [site for site, reason in report.dropped if "bytes beside its arrays" in reason] == ["s2", "s2"]
    assert sorted(report.scores) == report.usable == ["s0", "s1", "s3", "s4"]


def test_impossible_scores_are_dropped():
    def lie(site, instruction, content):
        if site == 2 and "global/correct" in content[METRICS]:
            content[METRICS]["global/correct"] = [9, 9]

    _, (report,) = run(strategy(), client(lie))
    assert sorted(report.scores) == ["s0", "s1", "s3", "s4"]
    assert "impossible class counts" in report.dropped[0][1]


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"global/correct": [1, 0, 0], "global/total": [2, 2, 1]}, r"counts of \[3\] classes, expected 2"),
        ({"global/correct": [2**62, 2**62], "global/total": [2**62, 2**62]}, "no whole numbers from 0 to"),
        ({"global/correct": [10**8, 0], "global/total": [10**8, 10**8]}, "scored images: expected at most"),
        ({"global/correct": [1, 0], "global/total": [2, 1]}, "3 scored images, but num-examples = 4"),
        ({"global/correct": [1.0, 0.0], "global/total": [2.0, 2.0]}, "no whole numbers"),
        ({"global/correct": [1, 0], "global/total": 4}, "impossible class counts"),
        (
            {
                "global/correct": [1, 0],
                "global/total": [2, 2],
                "personalized/correct": [1, 1],
                "personalized/total": [3, 1],
            },
            "scored on different numbers",
        ),
    ],
)
def test_counts_that_cannot_be_are_dropped_and_spoil_nothing(metrics, reason):
    def lie(site, instruction, content):
        if site == 2 and "global/correct" in content[METRICS]:
            content[METRICS] = MetricRecord({"num-examples": 4, **metrics})

    _, (report,) = run(strategy(num_classes=2), client(lie))
    assert sorted(report.scores) == ["s0", "s1", "s3", "s4"]
    assert report.dropped[0][0] == "s2" and re.search(reason, report.dropped[0][1])


def test_a_mean_that_overflows_is_left_out():
    def boast(site, instruction, content):
        if ARRAYS in content:
            content[METRICS] = MetricRecord({"num-examples": site + 1, "loss": 1.0, "odd": 1.7e308})

    _, (report,) = run(strategy(), client(boast))
    assert report.train["loss"] == pytest.approx(1) and all(np.isfinite(value) for value in report.train.values())


def test_silence_is_told_with_what_flower_says_of_lost_nodes():
    """Flower reports a node that is gone from its own id, not from the node's."""
    from flwr.app import Error

    class Losing(LocalGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = list(super().send_and_receive(messages, timeout=timeout))
            if not replies or replies[0].metadata.message_type != "train":
                return replies
            sites = {site_of(context): node for node, context in self.contexts.items()}
            (asked,) = (message for message in messages if message.metadata.dst_node_id == sites[2])
            lost = Message(Error(code=5, reason="node unavailable"), reply_to=asked)
            lost.metadata.__dict__["_src_node_id"] = 1
            heard = [reply for reply in replies if reply.metadata.src_node_id not in (sites[2], sites[3])]
            return [*heard, lost]  # site 3 is silent altogether

    plan = strategy()
    reports = []
    plan.start(
        Losing(client(), SITES, {}),
        to_array_record(START),
        num_rounds=1,
        evaluate_fn=lambda number, arrays: reports.append(plan.report) if number else None,
    )
    assert reports[0].usable == ["s0", "s1", "s4"]
    assert reports[0].dropped == [(name, "no reply (node unavailable)") for name in ("s2", "s3")]


# --- quorum -------------------------------------------------------------------------------------------------------


def failing(rounds):
    def spoil(site, instruction, content):
        if instruction.round in rounds and "loss" in content[METRICS]:
            raise ValueError("no memory")

    return spoil


def test_below_the_quorum_a_round_keeps_the_old_model_and_is_marked():
    arrays, reports = run(strategy(Schedule(3, 0), min_replies=2), client(failing({2})))
    assert arrays["w"] == pytest.approx(START["w"] + 2 * 40 / 15)
    assert [report.kept_old_model for report in reports] == [False, True, False]


def test_failed_rounds_in_a_row_end_the_run_with_the_reasons():
    with pytest.raises(RunError, match=r"Round 4: 0 of 5 sites.*in a row.*s0: ValueError: no memory"):
        run(strategy(Schedule(9, 0), max_failed_rounds=3), client(failing({2, 3, 4})))


def test_a_good_round_starts_the_count_anew():
    run(strategy(Schedule(6, 0), max_failed_rounds=2), client(failing({1, 3, 5})))


def test_an_absent_site_is_reported_and_not_replaced():
    plan = strategy(Schedule(2, 0), num_sites=0)
    plan.restore(
        {
            "round": 0,
            "roster": {
                f"s{k}": {"site": f"s{k}", "num_examples": k + 1, "partitions": 0, "device": "cpu"} for k in range(7)
            },
            "private_rounds": {},
            "failed_in_a_row": 0,
            "experiment_id": "e",
        }
    )
    _, reports = run(plan)
    for report in reports:
        assert len(report.cohort) == 7
        assert [name for name, reason in report.dropped if reason == "not connected"] == ["s5", "s6"]


# --- sites --------------------------------------------------------------------------------------------------------


def test_too_few_sites_are_an_error():
    with pytest.raises(RunError, match="5 of 6 sites can take part after 0.1 s; nodes connected: 5"):
        run(strategy(num_sites=6, connect_timeout=0.1))


def test_sites_that_are_left_out_do_not_count():
    with pytest.raises(RunError, match="4 of 5 sites can take part.* nodes connected: 5.*said above"):
        run(strategy(connect_timeout=0.1), client(examples=lambda site: site))


def test_a_quorum_that_no_cohort_can_meet_is_refused_at_once():
    with pytest.raises(RunError, match=r"min_replies = 4, but a cohort has 2 of 5 sites"):
        run(strategy(min_replies=4, fraction_train=0.4))


def test_other_parts_of_the_data_are_refused_when_resuming():
    first = strategy(Schedule(2, 0))
    run(first, rounds=1)
    state = first.state()
    state["roster"] = {name: {**one, "partitions": 9} for name, one in state["roster"].items()}
    second = strategy(Schedule(2, 0))
    second.restore(state)
    with pytest.raises(RunError, match=r"s0 had .* dealt out to 9 sites"):
        run(second, rounds=1)


def test_one_site_with_another_part_of_the_data_is_left_out_when_resuming(caplog):
    first = strategy(Schedule(2, 0))
    run(first, rounds=1)
    state = first.state()
    state["roster"]["s0"] = {**state["roster"]["s0"], "partitions": 9}
    second = strategy(Schedule(2, 0), num_sites=0)
    second.restore(state)
    _, (report,) = run(second, rounds=1)
    assert report.usable == ["s1", "s2", "s3", "s4"] and ("s0", "not connected") in report.dropped
    assert "dealt out to 9 sites" in caplog.text and second.roster.descriptions["s0"].partitions == 9


def test_as_many_sites_as_there_are():
    _, (report,) = run(strategy(num_sites=0))
    assert len(report.usable) == SITES


# --- resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["two-phase", "interleaved"])
@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_a_resumed_run_goes_on_where_it_stopped(kind, cut):
    plan = Schedule(3, 3, kind)
    arrays, reports = run(strategy(plan, fraction_train=0.4, experiment_id="e"))
    first = strategy(plan, fraction_train=0.4, experiment_id="e")
    middle, before = run(first, rounds=cut)
    second = strategy(plan, fraction_train=0.4)
    second.restore(first.state())
    rest, after = run(second, rounds=plan.total - cut, shuffle=7, start=middle)
    assert [r.cohort for r in before + after] == [r.cohort for r in reports]
    assert [r.round for r in before + after] == list(range(1, 7))
    assert second.private_rounds and second.experiment_id == "e"
    final = rest or middle  # Flower's result is empty when no round of it aggregated
    assert final["w"].tobytes() == arrays["w"].tobytes()


# --- inner strategies ---------------------------------------------------------------------------------------------


def inner_options(**more):
    return {"min_train_nodes": 1, "min_available_nodes": 1, **more}


@pytest.mark.parametrize(
    ("inner", "step"),
    [
        (FedMedian(**inner_options()), 2.0),
        (FedTrimmedAvg(**inner_options(), beta=0.2), 2.0),
    ],
)
def test_robust_inner_strategies(inner, step):
    arrays, _ = run(strategy(Schedule(1, 1), inner))
    assert arrays["w"] == pytest.approx(START["w"] + step)


@pytest.mark.parametrize("inner", [FedAdam, FedYogi, FedAvgM])
def test_inner_strategies_with_moments_run_for_several_rounds(inner):
    """Some of them compute in float64; sites go on getting, and so sending, float32."""
    arrays, reports = run(strategy(Schedule(4, 1), inner(**inner_options())))
    assert arrays["w"].dtype == np.float32 and not any(report.dropped for report in reports)
    assert np.isfinite(arrays["w"]).all() and not np.array_equal(arrays["w"], START["w"])


def test_an_aggregate_that_cannot_be_is_refused():
    class Odd(FedAvg):
        def aggregate_train(self, server_round, replies):
            return to_array_record({"w": np.full(START["w"].shape, np.nan, np.float32)}), None

    arrays, (report, _) = run(strategy(Schedule(2, 0), Odd(**inner_options())))
    assert report.kept_old_model and report.dropped == [("server", "Odd: its arrays hold NaN or Inf")]
    assert np.array_equal(arrays.get("w", START["w"]), START["w"])


def test_a_differential_privacy_wrapper_within_bounds_the_step():
    wrapper = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(**inner_options()), noise_multiplier=0.0, clipping_norm=0.5, num_sampled_clients=SITES
    )

    def one_nan_and_nobody_still(site, instruction, content):
        if ARRAYS in content and site in (0, 2):
            content[ARRAYS] = with_value(np.nan if site == 2 else 9.0)(None)

    arrays, (report, _) = run(strategy(Schedule(1, 1), wrapper), client(one_nan_and_nobody_still))
    step = np.linalg.norm(arrays["w"] - START["w"])
    assert 0 < step <= 0.5 + 1e-6 and len(report.usable) == 4


def test_an_inner_strategy_that_fails_costs_the_round_and_in_the_end_the_run():
    class Failing(FedAvg):
        def aggregate_train(self, server_round, replies):
            raise ZeroDivisionError("division by zero")

    with pytest.raises(RunError, match=r"server: Failing: division by zero"):
        run(strategy(Schedule(9, 0), Failing(**inner_options()), max_failed_rounds=2))


def test_an_inner_strategy_that_samples_is_refused():
    with pytest.raises(ValueError, match=r"fraction_train=1.0"):
        strategy(inner=FedAvg(fraction_train=0.5))


def test_an_inner_strategy_that_would_wait_for_ever_is_refused():
    with pytest.raises(RunError, match="wants at least 2 nodes, the cohort has 1"):
        run(strategy(inner=FedAvg(), fraction_train=0.2))


@pytest.mark.parametrize("options", [{"fraction_train": 0.0}, {"fraction_train": 1.1}, {"min_replies": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError):
        strategy(**options)


def test_bytes_are_counted_both_ways():
    _, (report,) = run(strategy())
    assert report.bytes_down > SITES * START["w"].nbytes and report.bytes_up > SITES * START["w"].nbytes
