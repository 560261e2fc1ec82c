"""What sites are told of each other's tasks, and send of their own: what leaves, and what hostile ends can do."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedpurel_app.core.records import ARRAYS, CONFIG, METRICS, Description, to_array_record
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies import FedPuReL, Schedule
from fedpurel_app.strategies.parts.peers import Learned
from tests.attacks.conftest import feature_site, initial
from tests.attacks.server import Server, metrics
from tests.support import LocalGrid
from tests.test_wire import record
from tests.wire import found

ROWS = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)


@pytest.fixture(params=["fingerprint", "learned"])
def site(tmp_path, request):
    """A real site, and what its server sends."""
    config, node = feature_site(tmp_path)
    config |= {"algorithm": "coaction", "global-rounds": 2, "personal-rounds": 2, "task-embedding": request.param}
    one = Server(config, node)
    return one, initial(one)


# --- what leaves ------------------------------------------------------------------------------------------------------


def test_a_personal_reply_holds_h_and_a_number_of_images_and_nothing_else(site):
    one, arrays = site
    learns = one.config["task-embedding"] == "learned"
    reply = one.personalize(arrays, 1, 0, brief={"tasks": ROWS})
    assert not reply.has_error() and metrics(reply).keys() == {"num-examples"}
    sent = {name: value.numpy() for name, value in reply.content[ARRAYS].items()}
    assert set(sent) == set(arrays) - {"residual"} and ("h.embedding" in sent) == learns
    kept = one.store().load(1)
    assert set(kept) == {"own.residual", "own.basis.residual", "memory/log-prior", "memory/tasks"}
    assert np.array_equal(kept["memory/tasks"][1:], ROWS[1:])
    assert np.array_equal(kept["memory/tasks"][0], sent["h.embedding"] if learns else ROWS[0])
    assert set(one.train(arrays, 2, 1).content[ARRAYS]) == {"residual"}


@pytest.mark.parametrize("embedding", ["fingerprint", pytest.param("learned", marks=pytest.mark.slow)])
def test_no_byte_of_what_stays_is_on_the_wire(tmp_path, embedding):
    """Nor what a site was told of others; its own embedding is, where it is learned."""
    more = {"private-learning-rate": 0.5, "task-embedding": embedding}
    heard, secrets, replies = record(tmp_path, algorithm="coaction", **more)
    for name in heard:
        kept = [one for one in secrets[name] if "own." in one or "log-prior" in one]
        assert len(kept) >= 6 and any("tasks" in one for one in secrets[name])
        leaked = found(b"\0".join(heard[name]), secrets[name])
        assert not leaked if embedding == "fingerprint" else all("memory/tasks" in one for one in leaked) and leaked
    names = {name for _, reply in replies if reply.has_content() for name in reply.content.get(ARRAYS, {})}
    assert ("h.embedding" in names) == (embedding == "learned") and not [one for one in names if "own." in one]


# --- a hostile server -------------------------------------------------------------------------------------------------

BRIEFS = {
    "another name": {"peers": ROWS},
    "none at all": None,
    "no rows": {"tasks": ROWS[:0]},
    "narrower": {"tasks": ROWS[:, :31]},
    "one row": {"tasks": ROWS[0]},
    "many rows": {"tasks": np.zeros((10_001, 32), np.float32)},
    "NaN": {"tasks": ROWS * np.float32("nan")},
    "huge": {"tasks": np.full((3, 32), 3e38, np.float32)},
    "whole numbers": {"tasks": np.ones((3, 32), np.int64)},
    "text": {"tasks": np.array([["x"]])},
}


@pytest.mark.parametrize("name", BRIEFS)
def test_a_crafted_brief_costs_a_reply_at_most(site, name):
    one, arrays = site
    reply = one.personalize(arrays, 1, 0, brief=BRIEFS[name])
    harmless = name in ("another name", "none at all")
    assert reply.has_error() == (not harmless)
    if harmless:
        assert one.store().load(1)["memory/tasks"].shape == (1, 32), "a site that is told nothing is alone"
    else:
        assert reply.error.reason.endswith("at the site; its own log says more") and 1 not in one.store().stamps()
    written = 1 if harmless else 0
    assert not one.personalize(arrays, 2, written, brief={"tasks": ROWS}).has_error(), "the honest server is served"
    assert one.store().load(2)["memory/tasks"].shape == (3, 32)


def test_where_the_first_visit_diverges_the_site_can_predict_all_the_same(site):
    """It has no more than it began with, but knows what predictions need."""
    one, arrays = site
    shared = set(arrays) - {"residual", "h.embedding"}
    huge = arrays | {name: np.full_like(arrays[name], 1e30) for name in shared}
    reply = one.personalize(huge, 1, 0, brief={"tasks": ROWS})
    assert not reply.has_error()
    sent = {name: value.numpy() for name, value in reply.content[ARRAYS].items()}
    assert all(np.array_equal(sent[name], huge[name]) for name in shared)
    assert "h.embedding" not in sent or np.array_equal(sent["h.embedding"], ROWS[0])
    kept = one.store().load(1)
    assert not kept["own.basis.residual"].any() and np.array_equal(kept["memory/tasks"], ROWS)
    answer = metrics(one.evaluate(arrays, 4, 1))
    assert "personalized/correct" in answer


# --- hostile sites ----------------------------------------------------------------------------------------------------

START = {"w": np.zeros(2, np.float32), "h.embedding": np.zeros(32, np.float32)}
LIES = {
    "NaN": np.full(32, np.nan, np.float32),
    "infinity": np.full(32, np.inf, np.float32),
    "huge": np.full(32, 3e38, np.float32),
    "large": np.full(32, -1001, np.float32),
    "shorter": np.zeros(31, np.float32),
    "a table": np.zeros((1, 32), np.float32),
    "wider numbers": np.zeros(32),
}


def play(part, rounds=2):
    """Sites 0 to 2 add their number and 1 to what they are told is theirs; those after them lie."""
    app, lies = ClientApp(), list(LIES.values())
    told: dict[int, dict[int, np.ndarray]] = {}
    reports = []

    @app.query("describe")
    def describe(message, context):
        index = int(context.node_config["partition-id"])
        return Message(RecordDict({CONFIG: Description(f"s{index:02d}", 9, 0, "cpu").to_config()}), reply_to=message)

    @app.train("personalize")
    def personalize(message, context):
        index, rows = int(context.node_config["partition-id"]), message.content["brief"]["tasks"].numpy()
        told.setdefault(message.content[CONFIG]["round"], {})[index] = rows
        row = np.asarray(lies[index - 3] if index > 2 else rows[0] + np.float32(index + 1))
        sent, number = to_array_record({"h.embedding": row}), MetricRecord({"num-examples": 4})
        return Message(RecordDict({ARRAYS: sent, METRICS: number}), reply_to=message)

    grid = LocalGrid(app, 3 + len(lies), {})
    how: dict[str, Any] = {"fraction_train": 1.0, "num_sites": 3 + len(lies), "max_failed_rounds": 9}
    strategy = FedPuReL(Schedule(0, rounds), part=part, personal_names={"h.embedding"}, **how)

    def after(number, arrays):
        if number:
            reports.append((strategy.report, arrays["h.embedding"].numpy()))

    strategy.start(grid, to_array_record(START), num_rounds=rounds, evaluate_fn=after)
    return reports, told


SGD = SgdSettings(0.1, 0.0, 0.0, 2, 1)


def test_embeddings_that_are_none_cost_their_sites_the_round_and_reach_nobody():
    reports, told = play(Learned({}, SGD))
    for number, (report, mean) in enumerate(reports, 1):
        reasons = dict(reversed(report.dropped))
        assert report.usable == ["s00", "s01", "s02"] and not report.kept_old_model
        assert (
            "NaN or Inf" in reasons["s03"] and "of at most 1000" in reasons["s05"] and "of size 1e+03" in reasons["s06"]
        )
        assert mean == pytest.approx(2 * number if number == 1 else 4)
    assert all(rows.tolist() == np.zeros((1, 32)).tolist() for rows in told[1].values())
    assert told[2][1][:, 0].tolist() == [2, 1, 3], "the own one first"
    assert told[2][9][:, 0].tolist() == [2, 1, 2, 3], "who has sent none begins at the mean"


def test_a_part_that_fails_costs_the_round_and_not_the_run():
    class Failing(Learned):
        def learn(self, replies):
            raise ZeroDivisionError("of its own")

    reports, told = play(Failing({}, SGD))
    assert len(reports) == 2 and all(report.kept_old_model and not mean.any() for report, mean in reports)
    assert all(("server", "FedAvg: of its own") in report.dropped for report, _ in reports)
    assert all(len(rows) == 1 for rows in told[2].values())
