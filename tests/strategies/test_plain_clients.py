"""A ClientApp written for Flower's FedAvg, knowing nothing of this package: no description, no personal phase."""

import logging
import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedpurel_app.core.errors import RunError
from fedpurel_app.core.records import CONFIG, Description
from fedpurel_app.strategies import FedPuReL, Schedule
from fedpurel_app.strategies.replies import cast_like
from tests.support import LocalGrid

SITES = 5
START: dict[str, np.ndarray] = {"w": np.array([1.0, 2.0], np.float32), "seen": np.array(0, np.int64)}


def array_dict(arrays):
    return {name: Array(value) for name, value in arrays.items()}


def site_of(context):
    return int(context.node_config["partition-id"])


def plain_client(evaluates=True, personalizes=lambda site: False, describes=lambda site: False, counts=()):
    """Site k adds k to `w` and weighs k + 1. It reads what Flower's own examples read of a message."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        site, config = site_of(context), message.content["config"]
        arrays = message.content["arrays"].to_numpy_ndarrays()
        trained = {"w": arrays[0] + np.float32(site), "seen": np.asarray(arrays[1] + 7)}
        metrics = MetricRecord({"train_loss": config.get("lr", 0.1) * site, "num-examples": site + 1})
        content = RecordDict({"arrays": ArrayRecord(array_dict(trained)), "metrics": metrics})
        return Message(content, reply_to=message)

    if evaluates:

        @app.evaluate()
        def evaluate(message, context):
            site, config = site_of(context), message.content["config"]
            metrics = {
                "eval_acc": site / 10 + config.get("shift", 0.0),
                "round": config["server-round"],
                "num-examples": site + 1,
            }
            if site in counts:
                metrics |= {"global/correct": 1, "global/total": 2, "num-examples": 2}
            return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)

    if any(map(personalizes, range(SITES))):

        @app.train("personalize")
        def personalize(message, context):
            if not personalizes(site_of(context)):  # another version of the app, at this node
                raise ValueError("No train function registered with name 'personalize'")
            assert message.content["config"]["lr"] == 2.0 and message.content["config"]["server-round"] > 0
            return Message(RecordDict({"m": MetricRecord({"num-examples": 1, "loss": 1.0})}), reply_to=message)

    if any(map(describes, range(SITES))):

        @app.query("describe")
        def describe(message, context):
            if not describes(site_of(context)):
                raise ValueError("No query function registered with name 'describe'")
            return Message(
                RecordDict({CONFIG: Description(f"s{site_of(context)}", 9, 0, "cpu").to_config()}), reply_to=message
            )

    return app


def run(strategy, app=None, rounds=None, grid=None, start=None):
    """Start a strategy as a ServerApp does; returns Flower's result and the reports of all rounds."""
    reports = []
    result = strategy.start(
        grid or LocalGrid(app or plain_client(), SITES, {}),
        start or ArrayRecord(array_dict(START)),
        num_rounds=rounds or strategy.schedule.total,
        train_config=ConfigRecord({"lr": 2.0}),
        evaluate_config=ConfigRecord({"shift": 0.5}),
        evaluate_fn=lambda number, arrays: reports.append(getattr(strategy, "report", None)) if number else None,
    )
    return result, reports


def fedpurel(global_rounds=2, personal_rounds=0, **options):
    settings: dict[str, Any] = {"fraction_train": 1.0, "num_sites": SITES} | options
    return FedPuReL(Schedule(global_rounds, personal_rounds), **settings)


def warnings_of(caplog):
    return [
        r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name.startswith("flwr.fedpurel")
    ]


def test_the_result_is_that_of_fedavg_in_parameters_and_metrics():
    ours, reports = run(fedpurel(3))
    theirs, _ = run(FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1), rounds=3)
    for name, array in theirs.arrays.items():
        np.testing.assert_allclose(ours.arrays[name].numpy(), array.numpy(), rtol=1e-6)
    assert ours.arrays["seen"].numpy() == 21 and ours.arrays["seen"].dtype == "int64"
    for kind in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
        found, wanted = getattr(ours, kind), getattr(theirs, kind)
        assert found.keys() == wanted.keys() == {1, 2, 3}
        assert all(found[number] == pytest.approx(dict(wanted[number])) for number in wanted)
    assert not any(report.dropped or report.kept_old_model for report in reports)


def test_what_the_clients_lack_is_logged_once_each(caplog):
    grid = LocalGrid(plain_client(), SITES, {})
    with caplog.at_level(logging.INFO, "flwr"):
        _, reports = run(fedpurel(2, 2), grid=grid)
    first, *more = sorted(f"node-{node}" for node in grid.contexts)
    described, pure, means, personal = warnings_of(caplog)
    assert 'the metric "conflict"' in pure and "those of FedAvg alone" in pure and "purified_step" in pure
    assert described.startswith(f"{first}, {more[0]}, {more[1]} and 2 more: no query.describe.")
    assert "node ids, which no restart keeps" in described and "numbers of examples are taken as they come" in described
    assert "no counts" in means and "eval_acc" in means and "weighted by num-examples" in means
    assert personal.startswith(f"{first}, {more[0]}, {more[1]} and 2 more: no function for train.personalize.")
    assert [report.usable for report in reports] == 2 * [[first, *more]] + 2 * [[]]


def test_clients_that_are_not_meant_to_purify_are_not_told_of_it(caplog):
    with caplog.at_level(logging.WARNING, "flwr"):
        run(fedpurel(2, 0, purifies=False))
    assert not any("conflict" in text for text in warnings_of(caplog))


def test_personal_rounds_that_nobody_can_do_nothing_and_do_not_end_the_run():
    asked = []
    grid = LocalGrid(plain_client(), SITES, {}, spy=lambda message, reply: asked.append(message.metadata.message_type))
    result, reports = run(fedpurel(1, 6, max_failed_rounds=2, min_replies=3), grid=grid)
    np.testing.assert_allclose(result.arrays["w"].numpy(), START["w"] + 40 / 15, rtol=1e-6)
    assert asked.count("train.personalize") == SITES  # once each, not once a round
    assert not any(report.kept_old_model for report in reports)
    assert reports[1].dropped[0][1].endswith("No train function registered with name 'personalize'")
    assert {reason for _, reason in reports[2].dropped} == {"has no train.personalize"}


def test_a_pause_between_failed_global_rounds_does_not_hide_them():
    """Interleaved: a personal round that nobody can do says nothing about the global rounds around it."""

    def lose(message, reply):
        if message.metadata.message_type == "train" and reply.has_content():
            reply.content["arrays"] = ArrayRecord()

    grid = LocalGrid(plain_client(), SITES, {}, spy=lose)
    plan = FedPuReL(Schedule(9, 9, "interleaved"), fraction_train=1.0, num_sites=SITES, max_failed_rounds=2)
    with pytest.raises(RunError, match="Round 3: 0 of 5 sites.*round 2 in a row"):
        run(plan, grid=grid)


def test_sites_with_a_personal_phase_go_on_beside_those_without(caplog):
    app = plain_client(personalizes=lambda site: site in (1, 3), describes=lambda site: True)
    plan = fedpurel(1, 3, min_replies=4)
    _, reports = run(plan, app)
    assert [report.usable for report in reports[1:]] == 3 * [["s1", "s3"]]
    assert not any(report.kept_old_model for report in reports)
    assert plan.private_rounds == {"s1": 4, "s3": 4}
    (told,) = (line for line in warnings_of(caplog) if "train.personalize" in line)
    assert told.startswith("s0, s2, s4: no function")


def test_a_quorum_still_binds_the_sites_that_can():
    app = plain_client(personalizes=lambda site: True, describes=lambda site: True)
    grid = LocalGrid(app, SITES, {}, spy=lambda message, reply: spoil(message, reply))

    def spoil(message, reply):
        if message.metadata.message_type == "train.personalize":
            reply.content["m"]["num-examples"] = -1

    with pytest.raises(RunError, match="0 of 5 sites"):
        run(fedpurel(0, 4, max_failed_rounds=2), grid=grid)


def test_clients_without_evaluation_are_asked_once(caplog):
    asked = []
    grid = LocalGrid(plain_client(evaluates=False), SITES, {}, spy=lambda message, reply: asked.append(
        message.metadata.message_type))  # fmt: skip
    result, reports = run(fedpurel(3), grid=grid)
    assert asked.count("evaluate") == SITES and not result.evaluate_metrics_clientapp
    assert len(reports[0].dropped) == SITES and not reports[1].dropped
    assert any("no function for evaluate. They are not scored" in line for line in warnings_of(caplog))


def test_means_are_reported_where_no_site_sends_counts_and_dropped_elsewhere(caplog):
    result, (report, _) = run(fedpurel())
    weights = np.arange(1, 6) / 15
    assert report.means["eval_acc"] == pytest.approx(float(weights @ np.arange(5)) / 10 + 0.5)
    assert report.scores == {} and result.evaluate_metrics_clientapp[1]["eval_acc"] == pytest.approx(
        report.means["eval_acc"]
    )
    result, (report, _) = run(fedpurel(), plain_client(counts=(1, 2), describes=lambda site: True))
    assert sorted(report.scores) == ["s1", "s2"] and report.means == {}
    assert report.dropped == [(name, "no score of the global model") for name in ("s0", "s3", "s4")]
    assert result.evaluate_metrics_clientapp[1]["global/accuracy"] == 0.5


def test_a_resumed_run_forgets_node_ids_of_the_one_before():
    plan = fedpurel(2)
    first, _ = run(plan, rounds=1)
    later = fedpurel(2)
    later.restore(plan.state())
    _, (report,) = run(later, rounds=1, grid=LocalGrid(plain_client(), SITES, {}, shuffle=4), start=first.arrays)
    assert len(report.cohort) == len(report.usable) == SITES and not report.dropped


def test_described_and_plain_clients_mix():
    """Plain clients' numbers of examples cannot be compared with a description; others' can."""
    _, (report,) = run(fedpurel(1), plain_client(describes=lambda site: site < 3))
    assert sorted(name for name in report.usable if name.startswith("s")) == ["s0", "s1", "s2"]
    assert len(report.usable) == SITES and math.isfinite(report.train["train_loss"])


def test_dropped_replies_are_logged_where_flowers_own_are(caplog):
    grid = LocalGrid(plain_client(describes=lambda site: True), SITES, {}, spy=lambda message, reply: spoil(reply))

    def spoil(reply):
        if reply.has_content() and reply.content.array_records:
            reply.content["metrics"]["num-examples"] = 0

    with caplog.at_level(logging.INFO, "flwr"):
        run(fedpurel(1), grid=grid)
    lines = [record.getMessage() for record in caplog.records if record.name == "flwr"]
    assert "\t> No usable reply to train from s0: num-examples = 0: expected 1 to 100000000" in lines


def test_a_mean_of_equal_counters_is_that_counter():
    """Weights that do not add up to 1 exactly leave 2.9999999999999996 of 3 batches seen."""
    mean = ArrayRecord(array_dict({"seen": np.array(2.9999999999999996)}))
    found = cast_like(mean, ArrayRecord(array_dict({"seen": np.array(3, np.int64)})))["seen"].numpy()
    assert found == 3 and found.dtype == np.int64
