"""A method's part at the server: the defaults do nothing, and what it weighs is what the mean becomes."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedpurel_app.core.records import ARRAYS, METRICS, to_array_record, to_arrays
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies import FedPuReL, Schedule
from fedpurel_app.strategies.parts import Part, load_part
from tests.support import LocalGrid

SGD = SgdSettings(0.1, 0.0, 0.0, 2, 1)


class Weighing(Part):
    """Counts the first site thrice, and takes half of the way."""

    def weights(self, sent, replies):
        return {min(replies): 3.0}

    def finish(self, sent, mean, replies, examples):
        return {name: (value + sent[name]) / 2 for name, value in mean.items()}


def trained(part):
    """Run one round over two clients, which answer 1 and 5 on one and two images."""
    app, answers = ClientApp(), iter((1.0, 5.0))
    numbers: dict[int, float] = {}

    @app.train()
    def train(message, context):
        value = numbers.setdefault(message.metadata.dst_node_id, next(answers))
        arrays = to_array_record({"w": np.array([value], np.float32)})
        return Message(RecordDict({ARRAYS: arrays, METRICS: MetricRecord({"num-examples": 1 if value == 1 else 2})}),
                       reply_to=message)  # fmt: skip

    strategy = FedPuReL(Schedule(1, 0), fraction_train=1.0, connect_timeout=0.1, purifies=False, part=part)
    start = ArrayRecord({"w": to_array_record({"w": np.zeros(1, np.float32)})["w"]})
    result = strategy.start(LocalGrid(app, 2, {}), start, num_rounds=1, train_config=ConfigRecord())
    return to_arrays(result.arrays)["w"].item(), min(numbers, key=lambda node: f"node-{node}"), numbers


def test_a_part_that_does_nothing_leaves_fedavg():
    for part in (Part({}, SGD), None):
        assert trained(part)[0] == pytest.approx((1 * 1 + 2 * 5) / 3)


def test_replies_are_weighed_and_the_mean_is_finished():
    found, first, numbers = trained(Weighing({}, SGD))
    weights = {node: (3 if node == first else 1) * (1 if value == 1 else 2) for node, value in numbers.items()}
    mean = sum(weights[node] * value for node, value in numbers.items()) / sum(weights.values())
    assert found == pytest.approx(mean / 2)


def test_no_name_is_no_part():
    assert load_part("", {}, SGD) is None
