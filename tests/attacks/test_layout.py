"""Tokens that move: what a server says of their blocks, and what sites tell of their idleness, whatever it is."""

from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file

from fedpurel_app.core.layout import METHOD
from fedpurel_app.core.records import ARRAYS, METRICS, to_array_record, to_arrays
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies import FedPuReL, Schedule
from fedpurel_app.strategies.parts import load_part
from tests.attacks.conftest import NAMES, initial
from tests.attacks.server import Server, metrics, told
from tests.support import LocalGrid

TOKENS, BLOCKS = 5, 5  # one token before every block of the demo CLIP
SETTINGS = {"peft": "visual-prompt", "prompt-relocation": "bandit", "prompt-tokens": 1, "batch-size": 4}
ODD = {
    "too few": {"home": [0] * 4},
    "too many": {"home": [0] * 6},
    "none": {"home": list[int]()},
    "of a block that is not there": {"home": [0, 1, 2, 3, 5]},
    "below 0": {"home": [0, 1, 2, 3, -1]},
    "huge": {"home": [0, 1, 2, 3, 2**62]},
    "fractions": {"home": [0.0, 1.0, 2.0, 3.0, 4.0]},
    "text": {"home": "01234"},
    "texts": {"home": ["0"] * 5},
    "truth values": {"home": [True] * 5},
    "a number": {"home": 3},
}


@pytest.fixture
def site(tmp_path, pictures):
    config = {"dataset": "sites", "classes": ", ".join(NAMES), **SETTINGS}
    return Server(config, {**pictures, "state-dir": str(tmp_path / "state")})


def homes(tmp_path):
    return [load_file(file)["memory/home"].tolist() for file in sorted(tmp_path.rglob("private-*.safetensors"))]


def test_a_crafted_layout_costs_a_reply_and_the_honest_server_is_served(site, tmp_path):
    arrays = initial(site)
    for number, layout in enumerate(ODD.values()):
        asked = (
            site.train(arrays, 2 * number + 1, layout=layout),
            site.personalize(arrays, 2 * number + 2, 0, layout=layout),
        )
        for reply in asked:
            assert reply.has_error() and reply.error.reason.endswith("ValueError at the site; its own log says more")
    assert homes(tmp_path) == []
    others = {"home": [0, 0, 4, 4, 4], "seed": 7, "prompt-tokens": 10**9, "prompt-depth": "shallow"}
    reply = site.train(arrays, 30, layout=others)  # of which but one is a layout
    assert not reply.has_error() and len(metrics(reply)["idleness"]) == TOKENS
    assert not site.personalize(arrays, 31, 0, layout=others).has_error() and homes(tmp_path) == [[0, 0, 4, 4, 4]]
    # The branch stays where it began, wherever the shared tokens go.
    assert not site.personalize(arrays, 32, 31, layout={"home": [1] * 5}).has_error()
    assert homes(tmp_path) == [[0, 0, 4, 4, 4]] * 2
    assert "error" not in told(site.evaluate(arrays, 33, 32, layout={"home": [1] * 5}))
    assert "error" in told(site.evaluate(arrays, 33, 32, layout={"home": [2] * 5})), "this is another question"


def test_a_site_that_tells_no_metrics_tells_no_idleness(site):
    site.node["metrics"] = "count"
    assert metrics(site.train(initial(site), 1)).keys() == {"num-examples"}


def test_where_tokens_stay_no_server_moves_them(site):
    """Whatever the message says: the settings of the run, which this site checked, have them stay."""
    arrays = initial(Server({**site.config, "prompt-relocation": "none"}, site.node))
    still = {"prompt-relocation": "none"}
    found = [told(site.train(arrays, number, changes=still, layout=layout))
             for number, layout in ((1, None), (2, {"home": [4] * 5}))]  # fmt: skip
    assert "error" not in found[0] and "metrics/idleness" not in found[0]
    assert found[0].keys() == found[1].keys() and found[0]["metrics/steps"] == found[1]["metrics/steps"]


# --- the server -------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
LIES = {
    "NaN": [0.0, NAN, 0.0, 0.0, 0.0],
    "inf": [INF] * 5,
    "-inf": [-INF] * 5,
    "huge": [1e301] * 5,
    "short": [9.0] * 4,
    "long": [9.0] * 6,
    "empty": list[float](),
    "a number": 9.0,
    "very long": [9.0] * 10_000,
}


def rounds_with(lie, number=3, told=True):
    """Run rounds over three sites, one of which tells what it likes; returns the reports, and what messages said."""
    options = {"prompt-relocation": "bandit", "prompt-tokens": 1, "relocate-every": 1, "relocation-warmup": 0}
    part = load_part("relocation", {**options, "global-rounds": 99, "seed": 0}, SgdSettings(0.1, 0.0, 0.0, 2, 1))
    app, heard, reports = ClientApp(), list[list[int]](), []
    honest = [-1.0, -1.0, 0.5, -1.0, -1.0]

    @app.train()
    def train(message, context):
        index = int(context.node_config["partition-id"])
        heard.append(list(message.content[METHOD]["home"]))
        values: dict[str, Any] = {"num-examples": 2, "loss": 1.0}
        values |= {"idleness": lie if index == 0 else honest} if told or index == 0 else {}
        content = RecordDict({ARRAYS: message.content[ARRAYS], METRICS: MetricRecord(values)})
        return Message(content, reply_to=message)

    strategy = FedPuReL(Schedule(number, 0), fraction_train=1.0, connect_timeout=0.1, purifies=False, part=part)
    start = {"tokens": np.ones((TOKENS, 2), np.float32)}
    result = strategy.start(
        LocalGrid(app, 3, {}), to_array_record(start), num_rounds=number, train_config=ConfigRecord(),
        evaluate_fn=lambda round_number, arrays: reports.append(strategy.report) if round_number else None,
    )  # fmt: skip
    return reports, heard, to_arrays(result.arrays)["tokens"], part


def moved_in(reports):
    """Return which tokens moved."""
    moves = [report.part["relocation"]["moved"] for report in reports]
    return {one["token"] for one in moves if one}


@pytest.mark.parametrize("name", LIES)
def test_what_is_no_idleness_costs_its_site_the_round(name):
    reports, heard, tokens, part = rounds_with(LIES[name])
    for report in reports:
        assert len(report.usable) == 2 and not report.kept_old_model
        reasons = [reason for _, reason in report.dropped if "evaluate" not in reason]
        assert reasons == ["idleness: expected a list of 5 finite numbers"]
    assert moved_in(reports) == {2}, "the honest sites decide"
    assert np.isfinite(tokens).all() and sorted(map(len, heard)) == [TOKENS] * 9
    assert all(np.isfinite(value).all() for value in part.state().values())


def test_a_site_that_exaggerates_moves_one_token_a_round_and_no_more():
    """It can choose which; it cannot raise a number, lose a token, or end the run."""
    reports, _, tokens, part = rounds_with([1e300, 0.0, 0.0, 0.0, -1e300])
    assert moved_in(reports) == {0}
    assert (tokens[1:] == 1).all() and 0 < tokens[0, 0] <= 1 and sum(reports[-1].part["relocation"]["tokens"]) == TOKENS
    assert all(np.isfinite(value).all() for value in part.state().values())
    assert all(report.part["relocation"]["most_idle"] is None for report in reports), "nothing that no reader bears"


def test_lists_that_nobody_asked_for_and_sites_that_tell_none_are_no_harm():
    reports, *_ = rounds_with([0.1, -1.0, -1.0, -1.0, -1.0], told=False)
    assert all(len(report.usable) == 3 and "idleness" not in report.train for report in reports)
    assert moved_in(reports) == {0}, "of the one that tells"
