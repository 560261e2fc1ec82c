"""Shortened replies: the codecs by hand, what the server refuses, and runs whose sites send a fraction of the bytes."""

from typing import Any

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from safetensors.numpy import load_file

from fedpurel_app.compression import COMPRESSIONS, Codec, Sketch, TopK, make_codec
from fedpurel_app.compression.base import Named, flat
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.records import ARRAYS, METRICS, NUM_EXAMPLES, to_array_record
from fedpurel_app.strategies import FedPuReL, Schedule
from fedpurel_app.strategies.aggregation import Aggregation
from fedpurel_app.strategies.screening import BadReplyError
from tests.support import private_files, run_tiny, run_whole_and_resumed, timeless, tiny_features

SENT = {"b": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), "a": np.array([0.5, -0.5, 0.25, 8.0], np.float32)}
UPDATE = {"a": [1.0, -4.0, 0.0, 0.5], "b": [[0.25, 3.0], [-2.0, 0.0]]}
CODECS = [TopK(2), Sketch(2, seed=3)]


def trained(update=UPDATE):
    return {name: (value + np.array(update[name], np.float32)).astype(np.float32) for name, value in SENT.items()}


# --- by hand --------------------------------------------------------------------------------------------------------


def test_top_k_sends_the_largest_and_keeps_the_rest():
    coded, unsent = TopK(2).shorten(trained(), SENT, 1, {})
    assert coded["indices"].tolist() == [1, 5] and coded["values"].tolist() == [-4.0, 3.0]  # 8 values, k = 2
    assert unsent["a"].tolist() == [1.0, 0.0, 0.0, 0.5] and unsent["b"].tolist() == [[0.25, 0.0], [-2.0, 0.0]]
    whole = TopK(2).restore(coded, SENT, 1)
    assert whole["a"].tolist() == [0.5, -4.5, 0.25, 8.0] and whole["b"].tolist() == [[1.0, 5.0], [3.0, 4.0]]
    later, left = TopK(2).shorten(SENT, SENT, 2, unsent)  # an update of nothing: what waited is sent
    assert later["indices"].tolist() == [0, 6] and later["values"].tolist() == [1.0, -2.0]
    assert flat(left).tolist() == [0, 0, 0, 0.5, 0.25, 0, 0, 0]


def test_what_top_k_sends_and_what_waits_add_up_to_all_updates():
    rng, codec, total, arrived = np.random.default_rng(0), TopK(4), np.zeros(8), np.zeros(8)
    unsent: Named = {}
    for number in range(1, 9):
        update = {name: rng.normal(size=value.shape) for name, value in SENT.items()}
        after = {name: (value + update[name]).astype(np.float32) for name, value in SENT.items()}
        total += flat(after) - flat(SENT)
        coded, unsent = codec.shorten(after, SENT, number, unsent)
        arrived += codec.expand(coded, 8, number)
    assert np.allclose(arrived + flat(unsent), total, atol=1e-6)
    assert np.abs(flat(unsent)).max() > 0.1


def test_equal_values_are_taken_in_the_order_of_their_places():
    assert TopK(2).encode(np.ones(8), 1)["indices"].tolist() == [0, 1]
    rng = np.random.default_rng(0)
    for size in range(2, 60):
        update = rng.integers(-3, 4, size).astype(float)
        coded = TopK(2).encode(update, 1)["indices"].tolist()
        assert coded == sorted(np.argsort(-np.abs(update), kind="stable")[: len(coded)].tolist())


def test_a_sketch_has_random_signs_in_cells_that_site_and_server_draw_alike():
    codec, update = Sketch(2, seed=3), flat(trained()) - flat(SENT)
    (row,) = codec.encode(update, 7)["sketch"]
    cells, signs = codec._hashes(8, 7)
    assert row.tolist() == [
        sum(s * u for c, s, u in zip(cells, signs, update, strict=True) if c == at) for at in range(4)
    ]
    found = Sketch(2, seed=3).expand({"sketch": row[None]}, 8, 7)
    assert found.tolist() == [signs[j] * row[cells[j]] for j in range(8)]
    assert not np.array_equal(codec._hashes(8, 8)[0], cells) and not np.array_equal(
        Sketch(2, 4)._hashes(8, 7)[0], cells
    )
    assert codec.shorten(trained(), SENT, 7, {})[1] == {}  # it remembers nothing


def test_a_sketch_is_unbiased_and_linear():
    rng, codec = np.random.default_rng(1), Sketch(4, seed=0)
    one, two = rng.normal(size=64), rng.normal(size=64)
    mean = np.mean([codec.expand(codec.encode(one, number), 64, number) for number in range(4000)], 0)
    assert np.abs(mean - one).max() < 5 * np.linalg.norm(one) / np.sqrt(16 * 4000)  # five standard errors
    sketches = [codec.encode(update, 1)["sketch"] for update in (one, two)]
    of_mean = codec.expand({"sketch": np.stack(sketches).mean(0, dtype=np.float64)}, 64, 1)
    singly = [codec.expand({"sketch": row}, 64, 1) for row in sketches]
    assert np.allclose(of_mean, np.mean(singly, 0), atol=1e-6)


@pytest.mark.parametrize("codec", CODECS, ids=lambda one: type(one).__name__)
def test_a_reply_has_the_form_that_the_server_expects(codec):
    coded = codec.shorten(trained(), SENT, 1, {})[0]
    form = codec.form(SENT)
    assert {name: (value.shape, value.dtype) for name, value in coded.items()} == {
        name: (value.shape, value.dtype) for name, value in form.items()
    }
    assert sum(value.nbytes for value in form.values()) == 8 * 4 / 2


def test_a_ratio_below_two_and_counters_are_refused():
    ratios: list[Any] = [1, 0, -3, 2.5]
    for ratio in ratios:
        with pytest.raises(ValueError, match="whole number of at least 2"):
            TopK(ratio)
    with pytest.raises(ValueError, match="n holds int64: only floating-point"):
        Sketch().shorten({"n": np.array([3])}, {"n": np.array([2])}, 1, {})


def test_what_is_listed_makes_what_it_says():
    for name, one in COMPRESSIONS.items():
        codec = make_codec({"compression": name, "compression-ratio": 16, "seed": 5})
        assert (codec is None) == (name == "none")
        assert codec is None or (codec.ratio == 16 and codec.remembers == one.remembers)


# --- at the server --------------------------------------------------------------------------------------------------


def global_round(codec):
    found: Any = FedPuReL(Schedule(2, 0), codec=codec)._rounds[Phase.GLOBAL]
    found.sent, found._number = to_array_record(SENT), 1
    return found


def reply(arrays):
    return RecordDict({ARRAYS: to_array_record(arrays), METRICS: MetricRecord({NUM_EXAMPLES: 4})})


@pytest.mark.parametrize("codec", CODECS, ids=lambda one: type(one).__name__)
def test_a_shortened_reply_becomes_a_whole_one(codec):
    content = reply(codec.shorten(trained(), SENT, 1, {})[0])
    global_round(codec).check(content, "north")
    found = {name: array.numpy() for name, array in content[ARRAYS].items()}
    assert {name: value.shape for name, value in found.items()} == {"a": (4,), "b": (2, 2)}
    assert all(np.array_equal(found[name], value) for name, value in codec.restore(coded_of(codec), SENT, 1).items())


def coded_of(codec: Codec):
    return codec.shorten(trained(), SENT, 1, {})[0]


def places(*numbers, kind=np.int32):
    return {"indices": np.array(numbers, kind), "values": np.array([1.0, 2.0], np.float32)}


@pytest.mark.parametrize(
    ("codec", "arrays", "reason"),
    [
        (TopK(2), trained(), "array names differ"),
        (TopK(2), places(1, 8), "not in rising order from 0 to 7"),
        (TopK(2), places(-1, 3), "not in rising order"),
        (TopK(2), places(3, 3), "not in rising order"),
        (TopK(2), places(5, 1), "not in rising order"),
        (TopK(2), places(2**31 - 1, -(2**31)), "not in rising order"),
        (TopK(2), places(1, 2, kind=np.int64), "indices: int64"),
        (TopK(2), places(1, 2, 3), r"indices: int32\(3,\)"),
        (TopK(2), places(1, 2) | {"values": np.array([np.nan, 1], np.float32)}, "NaN or Inf"),
        (TopK(2), places(1, 3) | {"values": np.array([3.4e38, 1], np.float32)}, None),  # no number here is too large
        (TopK(2), places(1, 2) | {"more": np.zeros(1, np.float32)}, "array names differ"),
        (Sketch(2), trained(), "array names differ"),
        (Sketch(2), {"sketch": np.zeros((1, 5), np.float32)}, "sketch: float32"),
        (Sketch(2), {"sketch": np.zeros((4,), np.float32)}, "sketch: float32"),
        (Sketch(2), {"sketch": np.full((1, 4), -np.inf, np.float32)}, "NaN or Inf"),
    ],
)  # fmt: skip
def test_what_no_codec_made_is_refused_with_a_reason(codec, arrays, reason):
    if reason is None:
        global_round(codec).check(reply(arrays), "north")
        return
    with pytest.raises(BadReplyError, match=reason):
        global_round(codec).check(reply(arrays), "north")


def test_an_update_that_leaves_the_numbers_is_refused():
    there = {"w": np.full(4, 3e38, np.float32)}
    found: Any = FedPuReL(Schedule(1, 0), codec=TopK(2))._rounds[Phase.GLOBAL]
    found.sent, found._number = to_array_record(there), 1
    huge = {"indices": np.array([2], np.int32), "values": np.array([3e38], np.float32)}
    with pytest.raises(BadReplyError, match="numbers that are not finite"):
        found.check(reply(huge), "north")


def test_a_strategy_that_clips_refuses_a_codec():
    inner = Aggregation("mean", 0.2, "server-fixed", 1.0, 1.0, 1e-5).strategy()
    with pytest.raises(ValueError, match="must see whole updates"):
        FedPuReL(Schedule(1, 0), inner, codec=TopK(2))


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["top-k", "sketch"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"aggregation": "median"}, 'aggregation = "median" compares single updates'),
        ({"aggregation": "norm-clipping"}, "compares single updates"),
        ({"privacy": "server-fixed"}, 'privacy = "server-fixed" clips whole updates'),
        ({"algorithm": "scaffold"}, 'does not go with algorithm = "scaffold"'),
        ({"algorithm": "zero-shot"}, "which sends nothing"),
        ({"compression-ratio": 1}, "compression-ratio"),
    ],
)
def test_what_it_does_not_go_with_is_said(kind, change, reason):
    with pytest.raises(ConfigError, match=reason):
        load_config({"compression": kind, **change})


def test_a_ratio_without_compression_has_no_use():
    with pytest.raises(ConfigError, match="compression-ratio = 4: it belongs to compression"):
        load_config({"compression-ratio": 4})


def test_too_little_to_shorten_is_refused_before_a_round(tmp_path):
    with pytest.raises(ConfigError, match="a site sends 48 numbers, and below 20,000"):
        run_tiny(tmp_path, compression="top-k")
    assert not list((tmp_path / "run").glob("checkpoint*"))


# --- runs -----------------------------------------------------------------------------------------------------------


def wide(folder, **changes):
    """Run on as few images as ever, with 25,600 parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_features(folder / "features.npz", classes=50, width=512, per_class=6)
    return run_tiny(folder, imbalance_factor=1, **changes)


@pytest.mark.parametrize("schedule", ["two-phase", "interleaved"])
@pytest.mark.parametrize("kind", ["top-k", "sketch"])
def test_sites_send_an_eighth_and_the_run_is_whole(tmp_path, kind, schedule):
    plain = wide(tmp_path / "plain", schedule=schedule)
    short = wide(tmp_path / kind, schedule=schedule, compression=kind)
    first, last = (
        short.rounds()[1],
        plain.rounds()[1],
    )  # the first round has no evaluation, whose counts are as they were
    assert 7.5 < last["bytes_up"] / first["bytes_up"] <= 8
    assert short.summary()["outcome"] == "completed" and not short.summary()["dropped_replies"]
    moved = [flat(run.read_checkpoint()[0]) for run in (plain, short)]  # from zero, where a text residual begins
    assert moved[0] @ moved[1] > 0.3 * np.linalg.norm(moved[0]) * np.linalg.norm(moved[1])
    assert [line["bytes_down"] for line in short.rounds()[1:]] == [line["bytes_down"] for line in plain.rounds()[1:]]


def test_the_site_keeps_what_it_has_not_sent_and_nobody_else_has_it(tmp_path):
    run = wide(tmp_path, compression="top-k", personal_rounds=0)
    files = sorted((run.path / "private").rglob("*.safetensors"))
    assert files and all(set(load_file(path)) == {"unsent/residual"} for path in files)
    assert all(np.count_nonzero(load_file(path)["unsent/residual"]) > 20_000 for path in files)
    assert not private_files(wide(tmp_path / "sketch", compression="sketch", personal_rounds=0))


def test_a_resumed_run_is_the_whole_one(tmp_path):
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
        tiny_features(tmp_path / folder / "features.npz", classes=50, width=512, per_class=6)
    whole, cut = run_whole_and_resumed(tmp_path, "train", 3, compression="top-k", imbalance_factor=1)
    assert timeless(whole) == timeless(cut) and private_files(whole) == private_files(cut)
    arrays = [run.read_checkpoint()[0] for run in (whole, cut)]
    assert all(np.array_equal(value, arrays[1][name]) for name, value in arrays[0].items())


def test_a_site_whose_round_was_lost_takes_up_what_waited_before_it(tmp_path):
    """What did not arrive must not count as sent."""
    begun = []

    def spy(message, reply):
        if message.metadata.message_type == "train":
            instruction = message.content["config"]
            begun.append((instruction["round"], instruction["private-round"]))
            if instruction["round"] == 2:
                reply.content[METRICS][NUM_EXAMPLES] = -1

    run = wide(tmp_path, compression="top-k", personal_rounds=0, fraction_train=1.0, grid={"spy": spy})
    assert [line.get("kept_old_model") for line in run.rounds()[1:]] == [False, True, False]
    assert sorted(set(begun)) == [(1, 0), (2, 1), (3, 1)]
