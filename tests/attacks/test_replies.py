"""Whatever sites send: no exception, no raw text on disk or terminal, and a mean of the good replies to the bit."""

import copy
import json
import random
import string
import unicodedata
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedpurel_app.core.records import ARRAYS, CONFIG, METRICS, Description, to_array_record
from fedpurel_app.reporting.console import show_lines
from fedpurel_app.server_app import app as server_app
from fedpurel_app.strategies import FedPuReL, Schedule
from tests.support import EndedRun, LocalGrid, run_app, tiny_config

GOOD, SITES = 4, 44
START: dict[str, np.ndarray] = {"w": np.array([np.pi, np.e], np.float32), "n": np.array([3], np.int64)}
NASTY = [
    "",
    "\x1b[2J\x1b[31m",
    "a\nb\r\n",
    "\u202egnp.exe",
    "=cmd|'/C calc'!A0",
    "../..",
    "server",
    "nul\x00",
    "A\u0410",
]
NUMBERS = [0, 1, -1, 4, 10**8, 10**9, 2**62, 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf")]
NAMES = [
    *(
        "num-examples",
        "loss",
        "seconds",
        "feature-seconds",
        "worker",
        "private-restarted",
        "scores-withheld",
        "norm_bit",
    ),
    *(
        f"{model}/{part}"
        for model in ("zero-shot", "global", "personalized")
        for part in ("correct", "total", "nll", "predicted", "bin-total", "group-confusion")
    ),
    *("global/right-with-zero-shot", "personalized/right-with-global"),
]


class Lottery:
    """Draws what no honest site would send."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def text(self) -> str:
        kind = self.draw.random()
        if kind < 0.4:
            return self.draw.choice(NASTY)
        size = 10**6 if kind > 0.9998 else self.draw.randrange(1, 40)
        return "".join(self.draw.choices(string.printable + "\x1b\u202e\u0000é漢", k=size))

    def number(self):
        return self.draw.choice(NUMBERS) if self.draw.random() < 0.7 else self.draw.uniform(-10, 1000)

    def value(self):
        if self.draw.random() < 0.2:
            kind = self.draw.choice((int, float))
            return [kind(self.draw.randrange(-2, 50)) for _ in range(self.draw.choice((0, 1, 2, 3, 300)))]
        return self.number()

    def metrics(self) -> MetricRecord:
        names = self.draw.sample(NAMES, self.draw.randrange(len(NAMES)))
        names += [self.text() for _ in range(self.draw.randrange(3))]
        values = {name: self.value() for name in names}
        if self.draw.random() < 0.6:
            values["num-examples"] = self.draw.choice((1, 2, 3, 4))
        if self.draw.random() < 0.3:
            values |= {"global/correct": 1, "global/total": 2, "num-examples": 2}
        return MetricRecord(values)

    def array(self) -> Array:
        if self.draw.random() < 0.3:
            return Array(self.draw.choice(("float32", "int64", "O", "x")), (2,), self.text(), self.text().encode())
        shape = self.draw.choice(((2,), (1,), (), (2, 2), (0,)))
        kind = self.draw.choice((np.float32, np.float64, np.int64, np.float16, np.bool_, np.complex64))
        with np.errstate(all="ignore"):
            return Array(np.full(shape, self.draw.choice((0.0, 1.0, np.nan, np.inf, 3e38))).astype(kind))

    def arrays(self) -> ArrayRecord:
        names = self.draw.choice((["w", "n"], ["w"], ["n"], [], [self.text(), "w"]))
        return ArrayRecord({name: self.array() for name in names})

    def config(self) -> ConfigRecord:
        keys = ["site", "num-examples", "partitions", "device", "class-counts", "test-examples", "refusal", "reason"]
        found: dict[str, Any] = {}
        for key in self.draw.sample(keys, self.draw.randrange(len(keys) + 1)):
            found[key] = self.draw.choice(
                (self.text(), self.draw.randrange(-5, 10**10), True, 1.5, b"\x00\xff", [1, 2], [self.text()], ["a"])
            )
        if self.draw.random() < 0.3:
            found["refusal"] = self.draw.choice(("attempt", "policy", self.text()))
        return ConfigRecord(found)

    def content(self) -> RecordDict:
        makers = {ARRAYS: self.arrays, METRICS: self.metrics, CONFIG: self.config}
        found: dict[str, Any] = {}
        for _ in range(self.draw.randrange(4)):
            name = self.draw.choice((ARRAYS, METRICS, CONFIG, self.text()))
            found[name] = self.draw.choice(list(makers.values()))()
        if self.draw.random() < 0.5:
            found[METRICS] = self.metrics()
        return RecordDict(found)

    def reply(self, message: Message) -> Message:
        if self.draw.random() < 0.1:
            return Message(Error(code=self.draw.randrange(9), reason=self.text()), reply_to=message)
        return Message(self.content(), reply_to=message)


def honest(describes=lambda site: f"s{site:02d}", width=2, numbers=lambda site: site + 1):
    """A ClientApp whose site k adds k to every number."""
    app = ClientApp()

    def site_of(context):
        return int(context.node_config["partition-id"])

    @app.query("describe")
    def describe(message, context):
        site = site_of(context)
        record = Description(describes(site), numbers(site), 0, "cpu", test_examples=4).to_config()
        return Message(RecordDict({CONFIG: record}), reply_to=message)

    @app.train()
    def train(message, context):
        site = site_of(context)
        arrays = {
            name: value.numpy() + value.numpy().dtype.type(site) for name, value in message.content[ARRAYS].items()
        }
        metrics = MetricRecord({"num-examples": numbers(site), "loss": float(site)})
        return Message(RecordDict({ARRAYS: to_array_record(arrays), METRICS: metrics}), reply_to=message)

    @app.train("personalize")
    def personalize(message, context):
        return Message(
            RecordDict({METRICS: MetricRecord({"num-examples": numbers(site_of(context))})}), reply_to=message
        )

    @app.evaluate()
    def evaluate(message, context):
        metrics: dict[str, Any] = {"num-examples": 4, "global/total": [4] + [0] * (width - 1)}
        metrics["global/correct"] = [1] + [0] * (width - 1)
        return Message(RecordDict({METRICS: MetricRecord(metrics)}), reply_to=message)

    return app


class Liars(LocalGrid):
    """A grid on which all sites but the first few send what a lottery draws, once there is one."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.lottery, self.lies, self.heard = None, 0, []

    def send_and_receive(self, messages, *, timeout=None):
        replies = list(super().send_and_receive(messages, timeout=timeout))
        for index, reply in enumerate(replies):
            site = int(self.contexts[reply.metadata.src_node_id].node_config["partition-id"])
            if self.lottery is not None and site >= GOOD:
                replies[index] = lie(self.lottery, reply)
                self.lies += 1
        # Flower's aggregation empties the replies that it has used.
        kept = [Message(copy.deepcopy(one.content), reply_to=one) if one.has_content() else one for one in replies]
        self.heard.append({reply.metadata.src_node_id: one for reply, one in zip(replies, kept, strict=True)})
        return replies


def lie(lottery, reply):
    """Put something else in the place of a reply."""
    other = lottery.reply(reply)
    other.metadata.__dict__.update(reply.metadata.__dict__)
    return other


def is_clean(value):
    """Tell whether all text in a structure is printable."""
    if isinstance(value, dict):
        return all(map(is_clean, value)) and all(map(is_clean, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_clean, value))
    return not isinstance(value, str) or not any(unicodedata.category(one).startswith("C") for one in value)


def mean_of(replies):
    """Aggregate replies by Flower's FedAvg alone, as a server that met no others would."""
    contents = []
    for reply in replies:
        (arrays,), (metrics,) = reply.content.array_records.values(), reply.content.metric_records.values()
        weight = MetricRecord({"num-examples": metrics["num-examples"]})
        contents.append(Message(RecordDict({ARRAYS: arrays, METRICS: weight}), reply_to=reply))
    found, _ = FedAvg(min_train_nodes=1, min_available_nodes=1).aggregate_train(1, contents)
    assert found is not None
    return found["w"].numpy()


# Rounds of training and evaluation at forty liars: 2,720 replies, and 13,600.
@pytest.mark.parametrize("rounds", [34, pytest.param(170, marks=pytest.mark.slow)])
def test_random_replies_cost_their_sites_the_rounds_and_nothing_else(caplog, capfd, rounds):
    grid = Liars(honest(), SITES, {})
    strategy = FedPuReL(
        Schedule(rounds // 2, rounds // 2),
        fraction_train=1.0,
        num_sites=SITES,
        num_classes=2,
        max_failed_rounds=10**6,
    )
    strategy.connect(grid)  # all introduce themselves honestly
    grid.lottery = Lottery(0)
    grid.heard.clear()
    sites = {node: f"s{int(one.node_config['partition-id']):02d}" for node, one in grid.contexts.items()}

    def after(number, current):
        if not number:
            return
        report = strategy.report
        assert report is not None
        assert is_clean(report.dropped) and is_clean(list(report.train)) and is_clean(strategy.state())
        assert {f"s{site:02d}" for site in range(GOOD)} <= set(report.usable)
        assert all(np.isfinite(value) for value in [*report.train.values(), *report.seconds.values()])
        if report.phase == "global":
            replies = {sites[node]: reply for node, reply in grid.heard[0].items()}
            expected = mean_of([replies[site] for site in report.usable])
            assert current["w"].numpy().tobytes() == expected.tobytes()
        grid.heard.clear()

    strategy.start(grid, to_array_record(START), num_rounds=rounds, evaluate_fn=after)
    assert grid.lies == 2 * rounds * (SITES - GOOD)
    out, err = capfd.readouterr()
    assert not any(one in caplog.text + out + err for one in ("\x1b[2J", "\u202e", "\x00"))


@pytest.mark.parametrize("federations", [range(40), pytest.param(range(40, 160), marks=pytest.mark.slow)])
def test_random_descriptions_and_refusals_are_read_or_left_out(federations):
    """Each of 160 federations asks forty liars who they are, 6,400 in all; each meets its four honest sites."""
    for seed in federations:
        grid = Liars(honest(), SITES, {}, shuffle=seed)
        grid.lottery = Lottery(1000 + seed)
        strategy = FedPuReL(Schedule(1, 0), num_sites=0, connect_timeout=0.0)
        notes = strategy.roster.refresh(grid, 1, patient=False)
        assert {f"s{site:02d}" for site in range(GOOD)} <= set(strategy.roster.names)
        assert is_clean(strategy.state()) and is_clean(notes) and all(len(note) < 1500 for note in notes)
        assert all(is_clean(refusal.reason) for refusal in strategy.roster.refusals.values())
        assert json.loads(json.dumps(strategy.state())) == strategy.state()
        assert grid.lies == SITES - GOOD


def test_a_whole_run_writes_and_prints_clean_text(tmp_path, caplog, capfd):
    config = tiny_config(tmp_path, num_sites=0, fraction_train=1.0, evaluate_every=1, max_failed_rounds=99)
    lottery = Lottery(7)

    def spy(message, reply):
        site = message.metadata.dst_node_id // 7919 - 1
        introduces_itself = message.metadata.message_type == "query.describe" and site % 2
        return None if site < 2 or introduces_itself else lie(lottery, reply)

    run_app(server_app, honest(width=6, numbers=lambda site: 7), 20, config, spy=spy)
    folder = EndedRun(tmp_path / "run")
    assert folder.summary()["outcome"] == "completed" and folder.summary()["dropped_replies"] > 50
    for name in ("state.json", "summary.json", "config.json"):
        assert is_clean(folder.read_json(name))
    assert is_clean(folder.rounds()) and is_clean(folder.read_csv("sites.csv")) and is_clean(show_lines(folder))
    out, err = capfd.readouterr()
    assert not any(one in caplog.text + out + err for one in ("\x1b[2J", "\u202e", "\x00"))
