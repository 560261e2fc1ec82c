"""Every byte that a site sends, in Flower's own serialisation: nothing of its data or its private branch is in it."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from safetensors.numpy import load_file

from fedpurel_app.client_app import app as client_app
from fedpurel_app.core.records import to_array_record
from fedpurel_app.server_app import app as server_app
from tests.support import CLASS_NAMES, HELD, EndedRun, own_sites, run_app
from tests.wire import WINDOW, facts, found, secrets_of, sent


def record(folder, **changes):
    """Run both phases over sites with data of their own; give what every site sent, and what it must not send."""
    nodes = own_sites(folder)
    heard: dict[str, list[bytes]] = {name: [] for name in HELD}
    config = {"dataset": "sites", "classes": ", ".join(CLASS_NAMES), "global-rounds": 2, "personal-rounds": 2}
    config |= {"fraction-train": 1.0, "out": str(folder / "run"), **changes}
    replies = []
    grid = run_app(
        server_app,
        client_app,
        len(nodes),
        config,
        nodes=nodes,
        spy=lambda message, reply: replies.append((message.metadata.dst_node_id, reply)),
    )
    for node, reply in replies:
        heard[str(grid.contexts[node].node_config["site"])] += sent(reply)
    secrets = {name: secrets_of(folder / name, folder / f"{name}-state", CLASS_NAMES) for name in HELD}
    return heard, secrets, replies


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wire")
    return folder, *record(folder)


@pytest.mark.parametrize("site", HELD)
def test_nothing_of_a_site_but_shared_parameters_and_totals_is_sent(recorded, site):
    _, heard, secrets, _ = recorded
    kinds = {name.split()[0] for name in secrets[site]}
    assert kinds >= {"path", "cache", "file", "pixels", "planes", "counts", "text"}
    assert sum(name.startswith("private-") for name in secrets[site]) >= 6  # two generations, three types
    assert not found(b"\0".join(heard[site]), secrets[site])


def test_the_search_finds_what_is_sent(recorded):
    """The shared parameters that one site gave."""
    folder, heard, _, replies = recorded
    _, reply = next((node, one) for node, one in replies if one.content.array_records)
    shared = {name: array.numpy().tobytes() for name, array in reply.content["arrays"].items()}
    assert found(b"\0".join(b"\0".join(one) for one in heard.values()), shared) == list(shared)
    assert EndedRun(folder / "run").summary()["outcome"] == "completed"


@pytest.mark.parametrize("kind", ["private", "piece", "half", "features", "image", "pixels", "path", "counts"])
def test_the_search_finds_what_is_planted(recorded, kind):
    folder, heard, secrets, replies = recorded
    state = folder / "north-state"
    tensor = next(iter(load_file(sorted(state.rglob("private-*.safetensors"))[0]).values()))
    cached = max((np.load(path) for path in (state / ".cache").glob("*.npy")), key=len)
    image = next((folder / "north").rglob("*.png"))
    raw = tensor.tobytes()
    planted = {
        "private": RecordDict({"a": to_array_record({"w": tensor})}),
        "piece": RecordDict({"a": to_array_record({"w": tensor.ravel()[3 : 3 + WINDOW // 4]})}),
        "half": RecordDict({"a": to_array_record({"w": tensor.astype(np.float16)})}),
        "features": RecordDict({"a": to_array_record({"w": cached[2]})}),
        "image": RecordDict({"a": ArrayRecord({"w": Array("uint8", (9,), "x", image.read_bytes()[100:300])})}),
        "pixels": RecordDict(
            {"a": ArrayRecord({"w": Array("uint8", (9,), "x", secrets["north"][pixels_of(secrets)])})}
        ),
        "path": RecordDict({"m": MetricRecord({str(image.parent.parent): 1})}),
        "counts": RecordDict({"m": MetricRecord({"counts": [6, 8, 10, 0, 0]})}),
    }[kind]
    assert len(raw) > WINDOW
    message = Message(planted, reply_to=replies[0][1])
    assert found(b"\0".join(heard["north"] + sent(message)), secrets["north"])


def pixels_of(secrets):
    return next(name for name in secrets["north"] if name.startswith("pixels"))


@pytest.mark.slow
def test_numbers_by_class_are_found_where_the_run_asks_for_them(tmp_path):
    heard, secrets, _ = record(tmp_path, **{"share-class-counts": True})
    for site in HELD:
        leaked = found(b"\0".join(heard[site]), secrets[site])
        assert {name.split()[1] for name in leaked} == {"train", "test"}, leaked
        assert any(
            isinstance(value, list)
            for one in heard[site][1:]
            if b"Record " in one[:14]
            for value in facts(one).values()
        )
