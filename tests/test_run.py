"""Whole runs of the real apps in this process."""

import json
import math
import os
import platform

import numpy as np
import pytest
from flwr.app import ArrayRecord

from fedpurel_app.algorithms.fedpurel import residual_step
from fedpurel_app.client_app import app as client_app
from fedpurel_app.core.errors import ConfigError, FedPurelError, RunError, StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.core.phase import Phase
from fedpurel_app.reporting import checkpoint, run_files, run_folder
from fedpurel_app.reporting.console import show_lines
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.server_app import app as server_app
from fedpurel_app.site import site
from fedpurel_app.site.private_store import PrivateStore
from fedpurel_app.training.local import train
from tests.support import (
    SHARED,
    EndedRun,
    LocalGrid,
    private_files,
    run_app,
    run_tiny,
    timeless,
    tiny_config,
    tiny_features,
)

PARTS = ("all", "many", "medium", "few", "balancedness")
MODELS = ("zero_shot", "global", "global_at_sites", "personalized")


# --- what a run leaves --------------------------------------------------------------------------------------------


def test_a_run_leaves_its_folder(tmp_path):
    folder = run_tiny(tmp_path)
    summary = folder.summary()
    assert summary["outcome"] == "completed" and summary["error"] is None and summary["rounds"] == 6
    assert (summary["algorithm"], summary["peft"], summary["dataset"]) == ("fedpurel", "text-residual", "features")
    for model in MODELS:
        assert all(0 < summary[model][part] <= 100 for part in PARTS), model
    assert summary["bytes_up"] > 0 and summary["bytes_down"] > 0 and summary["dropped_replies"] == 0
    assert summary["seconds"]["total"] == pytest.approx(
        sum(value for part, value in summary["seconds"].items() if part != "total"), rel=0.01
    )
    rounds = folder.rounds()
    assert [line["round"] for line in rounds] == list(range(7))
    assert [line["phase"] for line in rounds] == ["start"] + 3 * ["global"] + 3 * ["personal"]
    assert [bool(line.get("sites")) for line in rounds] == [False, False, True, True, False, True, True]
    partition = folder.read_json("partition.json")
    assert len(partition["sha256"]) == 64
    assert sum(map(len, partition["train"])) == sum(partition["train_counts"])
    assert [sum(site.values()) for site in partition["train_by_class"]] == [len(rows) for rows in partition["train"]]
    by_class = [sum(site.get(str(label), 0) for site in partition["train_by_class"]) for label in range(6)]
    assert by_class == partition["train_counts"]
    assert sorted(row for rows in partition["test"] for row in rows) == list(range(240))
    assert len(folder.read_csv("sites.csv")) == 5 and len(folder.read_csv("classes.csv")) == 6
    config = folder.read_json("config.json")
    assert config["config"]["peft"] == "text-residual" and config["versions"]["flwr"]
    assert config["machine"]["cpu"] and 1 <= config["machine"]["cores"] <= (os.cpu_count() or 1)
    assert not list(folder.path.rglob("*.tmp"))


def test_numbers_of_the_tables_agree_with_the_summary(tmp_path):
    folder = run_tiny(tmp_path)
    summary, sites, classes = folder.summary(), folder.read_csv("sites.csv"), folder.read_csv("classes.csv")
    for model, column in (("global_at_sites", "global"), ("personalized", "personalized")):
        assert np.mean([float(row[column]) for row in sites]) == pytest.approx(summary[model]["all"], abs=1e-3)
    few = [float(row["global"]) for row in classes if row["group"] == "few"]
    assert np.mean(few) == pytest.approx(summary["global"]["few"], abs=1e-3)
    assert sum(int(row["test_images"]) for row in sites) == 240


def test_all_test_images_are_scored_at_the_sites(tmp_path):
    """With one shared model and matched test parts, pooling all sites gives the balanced test set again, exactly."""
    summary = run_tiny(tmp_path).summary()
    assert summary["global_at_sites"]["pooled"] == pytest.approx(summary["global"]["all"])
    for part in ("many", "medium", "few", "balancedness"):
        assert summary["global_at_sites"][part] == pytest.approx(summary["global"][part])


@pytest.mark.parametrize("algorithm", ["fedavg", "fedavg-kl", "prograd"])
def test_methods_without_a_private_part_say_so(tmp_path, algorithm):
    folder = run_tiny(tmp_path, algorithm=algorithm)
    summary = folder.summary()
    assert summary["rounds"] == 3 and summary["personalized"] is None
    assert summary["reasons"]["personalized"] == "this algorithm has no private part"
    assert not private_files(folder)


def test_totals_alone_leave_out_groups_with_a_reason(tmp_path):
    summary = run_tiny(tmp_path, share_class_counts=False).summary()
    assert summary["global_at_sites"]["all"] > 0
    assert all(summary["personalized"][part] is None for part in ("many", "medium", "few", "balancedness"))
    assert "not class counts" in summary["reasons"]["personalized.groups"]


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "interleaved"},
        {"partition": "iid"},
        {"class_order": "shuffled", "group_by": "counts"},
        {"private_init": "global", "private_weight": 0.5},
        {"peft": "adapter", "projection_scope": "tensor", "align_gradient": "implicit"},
        {"peft": "adapter"},
        {"full_first_round": True, "local_test": "uniform", "local_epochs": 2},
        {"global_rounds": 0, "personal_rounds": 2},
        {"personal_rounds": 0},
        {"console": "flower"},
        {"local_steps": 3, "drop_last": False},
    ],
    ids=str,
)
def test_variants_run_to_completion(tmp_path, changes):
    assert run_tiny(tmp_path, **changes).summary()["outcome"] == "completed"


def test_shots_are_the_same_images_for_one_seed_and_are_told(tmp_path):
    one, again, other = (
        run_tiny(tmp_path / name, imbalance_factor=1, shots=7, seed=seed, global_rounds=1, personal_rounds=0)
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    partitions = [folder.read_json("partition.json") for folder in (one, again, other)]
    assert partitions[0] == partitions[1] and partitions[0]["sha256"] != partitions[2]["sha256"]
    assert partitions[0]["train_counts"] == 6 * [7]
    drawn = [sorted(row for rows in partition["train"] for row in rows) for partition in partitions]
    assert drawn[0] != drawn[2] and len(drawn[0]) == 42
    assert "7 shots, dirichlet alpha 1" in "\n".join(show_lines(one)) and "IF" not in show_lines(one)[0]


@pytest.mark.parametrize("name", ["tensorboard"])
def test_trackers_get_every_round(tmp_path, name):
    pytest.importorskip(name)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run_tiny(tmp_path, tracker=name)
    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    tags = events.Tags()["tensors"]
    assert {"train/loss", "global/few", "global/ece", "sites/personalized/all"} <= set(tags)
    assert len(events.Tensors("train/loss")) == 6


# --- same seed, same run ------------------------------------------------------------------------------------------


def test_same_seed_same_run_other_seed_other_cohorts(tmp_path):
    runs = []
    for name, seed, shuffle in (("a", 1, 0), ("b", 1, 5), ("c", 2, 0)):
        (tmp_path / name).mkdir()
        runs.append(run_tiny(tmp_path / name, seed=seed, grid={"shuffle": shuffle}, imbalance_factor=5))
    first, again, other = runs
    assert timeless(first) == timeless(again)
    assert (first.path / "checkpoint.safetensors").read_bytes() == (again.path / "checkpoint.safetensors").read_bytes()
    assert [line["cohort"] for line in first.rounds()[1:]] != [line["cohort"] for line in other.rounds()[1:]]
    assert timeless(first) != timeless(other)


# --- privacy ------------------------------------------------------------------------------------------------------


def numbers_in(value):
    """All numbers in a value of a record, lists included."""
    if isinstance(value, list):
        return [number for part in value for number in numbers_in(part)]
    return [float(value)] if isinstance(value, int | float) else []


def leaks(kind, reply, stored):
    """Find private tensors in a reply: in any array, in other bytes, among the metrics, in the text of an error."""
    found = []
    rows = [row for tensor in stored for row in tensor.reshape(-1, tensor.shape[-1]) if np.abs(row).max() > 0]
    if reply.has_error():
        text = reply.error.reason or ""
        return ["text"] if any(repr(float(row[0])) in text for row in rows) else []
    for record in reply.content.values():
        if isinstance(record, ArrayRecord):
            found += ["arrays"] if kind != "train" else []
            values = [array.numpy().astype(np.float32).ravel() for array in record.values()]
            haystack = np.concatenate([*values, [np.nan]]).astype(np.float32).tobytes()
        else:
            metrics = [number for value in record.values() for number in numbers_in(value)]
            haystack = np.array(metrics, np.float32).tobytes() + record.deflate()
        found += ["values"] if any(row.astype(np.float32).tobytes() in haystack for row in rows) else []
        names = [name for name in record if "residual" in name or "private/" in name]
        found += ["names"] if names and kind != "train" else []
    return found


def walked_run(tmp_path, monkeypatch):
    """Run both phases; give every reply, and every private tensor that was ever stored."""
    stored: list[np.ndarray] = []
    replies = []
    save = PrivateStore.save

    def watched(self, tensors, stamp, previous):
        stored.extend(value.copy() for value in tensors.values())
        save(self, tensors, stamp, previous)

    monkeypatch.setattr(PrivateStore, "save", watched)
    run_tiny(tmp_path, grid={"spy": lambda message, reply: replies.append((message.metadata.message_type, reply))})
    assert {kind for kind, _ in replies} == {"query.describe", "train", "train.personalize", "evaluate"}
    assert len(stored) == 6 and all(np.abs(tensor).max() > 0 for tensor in stored)
    return replies, stored


def test_nothing_private_is_in_any_reply(tmp_path, monkeypatch):
    """Walk all messages of a run, and look for every private tensor ever stored: by name and by value."""
    replies, stored = walked_run(tmp_path, monkeypatch)
    assert not [(kind, found) for kind, reply in replies if (found := leaks(kind, reply, stored))]


def test_the_walk_finds_what_is_planted(tmp_path, monkeypatch):
    """The test above can fail: a real private tensor is found in whatever form it is sent."""
    from flwr.app import Error, Message, MetricRecord, RecordDict

    from fedpurel_app.core.records import to_array_record

    replies, stored = walked_run(tmp_path, monkeypatch)
    tensor = next(value for value in stored if np.abs(value[0]).max() > 0)
    _, request = next((kind, reply) for kind, reply in replies if kind == "train")
    row = tensor[0].tolist()
    planted = {
        "float32": RecordDict({"arrays": to_array_record({"w": tensor})}),
        "float64": RecordDict({"arrays": to_array_record({"w": tensor.astype(float)})}),
        "list": RecordDict({"metrics": MetricRecord({"loss": 1.0, "odd": row})}),
        "scalars": RecordDict({"metrics": MetricRecord({f"m{i:03d}": value for i, value in enumerate(row)})}),
    }
    for name, content in planted.items():
        assert "values" in leaks("train", Message(content, reply_to=request), stored), name
    error = Message(Error(code=2, reason=f"diverged at {row}"), reply_to=request)
    assert leaks("train", error, stored) == ["text"]
    arrays = Message(RecordDict({"arrays": to_array_record({"w": np.ones(3, np.float32)})}), reply_to=request)
    assert leaks("train.personalize", arrays, stored) == ["arrays"]


def test_the_server_refuses_arrays_in_a_personal_round(tmp_path):
    from fedpurel_app.client_app import _unpack
    from fedpurel_app.core.records import ARRAYS, to_array_record

    def spy(message, reply):
        if message.metadata.message_type == "train.personalize":
            reply.content[ARRAYS] = to_array_record(_unpack(message)[0])
        return reply

    with pytest.raises(RunError, match="private branches stay at their site"):
        run_tiny(tmp_path, grid={"spy": spy})


def test_a_real_site_keeps_the_text_of_its_errors(tmp_path, caplog):
    """Flower sends an exception's text to the server, and ours name paths."""
    from flwr.app import Context, Message, RecordDict

    from fedpurel_app.client_app import app
    from tests.support import LocalGrid

    LocalGrid(app, 1, {})  # sets the identity that messages need
    message = Message(RecordDict(), 1, "query.describe")
    message.metadata.__dict__["_message_id"] = "1"
    secret = tmp_path / "patients.npz"
    node: dict[str, bool | float | int | str] = {"partition-id": 0, "num-partitions": 5, "data": str(secret)}
    config = tiny_config(tmp_path)
    context = Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=config)
    with pytest.raises(RuntimeError) as caught:
        app(message, context)
    assert str(caught.value) == "DataError at the site; its own log says more"
    assert str(secret) in caplog.text and "patients" not in str(caught.value.__cause__)


def test_a_real_site_reads_the_data_that_it_names_itself(tmp_path):
    config = tiny_config(tmp_path)
    node = {"partition-id": 0, "num-partitions": 5}
    assert site.Site(config, node).config.dataset_path == ""
    assert site.Site(config, node | {"data": "/own.npz"}).config.dataset_path == "/own.npz"
    assert site.Site(config, node | {"simulation": True}).config.dataset_path == config["dataset-path"]
    from_file = config | {"backbone": "ViT-B-16", "pretrained": "/of/the/server.pt"}
    with pytest.raises(ConfigError, match="start this node with --node-config 'pretrained="):
        site.Site(from_file, node)
    assert site.Site(from_file, node | {"pretrained": "/own.pt"}).config.pretrained == "/own.pt"


def test_a_site_may_keep_its_class_counts(tmp_path):
    from fedpurel_app.core.records import Instruction

    config = tiny_config(tmp_path, share_class_counts=True)
    node = {"partition-id": 0, "num-partitions": 5, "simulation": True}
    arrays = {"residual": np.zeros((6, 8), np.float32)}
    scores = {}
    for veto in ({}, {"share-class-counts": False}):
        reply = site.Site(config, node | veto).evaluate(arrays, Instruction("global", 1, "e"))
        scores[bool(veto)] = reply["global/total"]
    assert len(scores[False]) == 6 and scores[True] == sum(scores[False])


@pytest.mark.parametrize("index", [-1, 5])
def test_a_part_that_does_not_exist_is_refused(tmp_path, index):
    with pytest.raises(ConfigError, match=r"num-partitions = 5: a node is given both, the first from 0"):
        site.Site(tiny_config(tmp_path), {"partition-id": index, "num-partitions": 5, "simulation": True})


@pytest.mark.parametrize("init", ["independent", "global"])
def test_the_first_private_branch_is_what_was_asked_for(tmp_path, init):
    from fedpurel_app.core.records import Instruction
    from fedpurel_app.models.peft.base import load_parameters, parameters_of

    node = {"partition-id": 0, "num-partitions": 5, "simulation": True}
    one = site.Site(tiny_config(tmp_path, private_init=init, peft="adapter"), node)
    frozen = one.experiment.kit.new_module("global")
    shared = {name: value + 1 for name, value in parameters_of(frozen).items()}
    load_parameters(frozen, shared)
    branch = parameters_of(one._private_module(frozen, {}, Instruction("personal", 1, "e")))
    own = parameters_of(one.experiment.kit.new_module("private"))
    assert any(not np.array_equal(own[name], shared[name]) for name in own)
    for name, value in branch.items():
        assert np.array_equal(value, shared[name] if init == "global" else own[name])


def test_the_optimisers_are_those_of_the_settings(tmp_path):
    from fedpurel_app.config import load_config
    from fedpurel_app.experiment import Experiment
    from fedpurel_app.models.peft.registry import FAMILIES

    config = load_config(tiny_config(tmp_path, momentum=0.5, weight_decay=0.1, learning_rate=0.7))
    shared, private = (Experiment(config, tmp_path).kit.sgd(phase) for phase in (Phase.GLOBAL, Phase.PERSONAL))
    assert (shared.learning_rate, shared.momentum, shared.weight_decay) == (0.7, 0.5, 0.1)
    family = FAMILIES["text-residual"]
    assert (private.learning_rate, private.momentum, private.weight_decay) == (family.private_learning_rate, 0.0, 0.0)


def test_a_real_site_never_obeys_a_path_from_the_server(tmp_path, home):
    from fedpurel_app.core.records import Instruction
    from fedpurel_app.site.site import Site
    from tests.support import tiny_config

    node = {"partition-id": 0, "num-partitions": 5}
    instruction = Instruction("personal", 1, "e", simulation_dir=str(tmp_path / "dictated"))
    config = tiny_config(tmp_path, state_dir=str(tmp_path / "asked"))
    folders = {
        name: Site(config, node | extra).keeper.open(instruction)._folder
        for name, extra in (
            ("real", {}),
            ("own", {"state-dir": str(tmp_path / "own")}),
            ("simulated", {"simulation": True}),
        )
    }
    assert folders["real"] == home / "private" / "e" / "site-0"
    assert folders["own"] == tmp_path / "own" / "e" / "site-0"
    assert folders["simulated"] == tmp_path / "asked" / "e" / "site-0"
    assert (
        Site(tiny_config(tmp_path), node | {"simulation": True})
        .keeper.open(instruction)
        ._folder.is_relative_to(tmp_path / "dictated")
    )


def test_a_simulated_site_on_a_machine_without_the_run_folder_says_so_before_it_works(tmp_path):
    """A Ray cluster of several machines: a private branch written here would not be there in the next round."""
    from fedpurel_app.core.records import Instruction

    node = {"partition-id": 0, "num-partitions": 5, "simulation": True}
    elsewhere = Instruction("global", 1, "e", simulation_dir=str(tmp_path / "absent" / "private"))
    run_tiny(tmp_path, global_rounds=1)
    arrays = RunFolder(tmp_path / "run").read_checkpoint()[0]
    with pytest.raises(StateError, match="does not see the run folder .*absent.*--out"):
        site.Site(tiny_config(tmp_path), node).train(Phase.GLOBAL, arrays, elsewhere)
    with pytest.raises(StateError, match="does not see the run folder"):
        site.Site(tiny_config(tmp_path), node).train(Phase.PERSONAL, arrays, elsewhere)
    assert not (tmp_path / "absent").exists()
    for harmless in ({"algorithm": "fedavg"}, {"state_dir": str(tmp_path / "own")}):
        site.Site(tiny_config(tmp_path, **harmless), node).train(Phase.GLOBAL, arrays, elsewhere)


def test_processes_of_other_machines_with_the_same_number_are_told_apart(tmp_path, monkeypatch):
    from fedpurel_app.core.records import Instruction

    node = {"partition-id": 0, "num-partitions": 5, "simulation": True}
    folder, workers = run_tiny(tmp_path, global_rounds=1), []
    arrays = folder.read_checkpoint()[0]
    for machine in ("one", "one", "other"):
        monkeypatch.setattr(platform, "node", lambda machine=machine: machine)
        reply = site.Site(tiny_config(tmp_path), node).evaluate(arrays, Instruction("global", 1, "e"))
        workers.append(reply["worker"])
    assert workers[0] == workers[1] != workers[2]


# --- resuming -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here; nothing may catch it."""


def kill_at(monkeypatch, round_number, point):
    """End the run in a round: after the sites wrote, at one of the server's writes."""

    def dying(path, content, mode=0o644):
        folder = RunFolder(path.parent)
        lines = folder.rounds() if path.name in ("checkpoint.safetensors", "state.json") else []
        if lines and lines[-1]["round"] == round_number and path.name == point:
            raise Killed
        write_atomically(path, content, mode)

    for module in (run_folder, checkpoint, run_files):
        monkeypatch.setattr(module, "write_atomically", dying)


SAME = {"experiment_id": "same", "validation_share": 0.2}


@pytest.fixture(scope="module", params=["two-phase", "interleaved"])
def whole(request, tmp_path_factory):
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return request.param, run_tiny(folder, schedule=request.param, **SAME)


@pytest.mark.parametrize("point", ["checkpoint.safetensors", "state.json"])
@pytest.mark.parametrize("killed_in", [4, *(pytest.param(number, marks=pytest.mark.slow) for number in (2, 3, 5, 6))])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, whole, killed_in, point):
    """Killed between the sites' writes and the server's checkpoint; all that counts is equal bit for bit."""
    schedule, expected = whole
    with monkeypatch.context() as patch:
        kill_at(patch, killed_in, point)
        with pytest.raises(Killed):
            run_tiny(tmp_path, schedule=schedule, **SAME)
    cut = RunFolder(tmp_path / "run")
    assert cut.summary() is None and cut.rounds()[-1]["round"] == killed_in
    resumed = run_tiny(tmp_path, schedule=schedule, **SAME, resume_from=str(cut.path), grid={"shuffle": 3})
    assert timeless(resumed) == timeless(expected)
    for name in ("checkpoint.safetensors", "checkpoint-best.safetensors", "classes.csv", "sites.csv", "validation.csv"):
        assert (resumed.path / name).read_bytes() == (expected.path / name).read_bytes(), name
    assert private_files(resumed) == private_files(expected)
    assert resumed.summary()["outcome"] == "completed"
    assert resumed.summary()["personalized"] == expected.summary()["personalized"]


def test_resuming_under_other_settings_is_refused_and_changes_nothing(tmp_path):
    folder = run_tiny(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}
    with pytest.raises(StateError, match=r"momentum: the run has 0.9, now asked for 0.5"):
        run_tiny(tmp_path, momentum=0.5, resume_from=str(folder.path))
    assert before == {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}


def test_resuming_on_other_data_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, 3, "state.json")
        with pytest.raises(Killed):
            run_tiny(tmp_path)
    old, path = tmp_path / "features.npz", str(tmp_path / "run")
    before = old.read_bytes()
    tiny_features(old, seed=1)
    with pytest.raises(StateError, match="was made with other data"):
        run_tiny(tmp_path, resume_from=path)
    moved = tmp_path / "moved.npz"
    moved.write_bytes(before)
    assert run_tiny(tmp_path, resume_from=path, dataset_path=str(moved)).summary()["outcome"] == "completed"


def test_resuming_on_fewer_nodes_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, 3, "state.json")
        with pytest.raises(Killed):
            run_app(server_app, client_app, 6, tiny_config(tmp_path, num_sites=0))
    config = tiny_config(tmp_path, num_sites=0, resume_from=str(tmp_path / "run"))
    with pytest.raises(RunError, match=r"dealt out to 6 sites, now \d+ and 4"):
        run_app(server_app, client_app, 4, config)
    run_app(server_app, client_app, 6, config)
    assert EndedRun(tmp_path / "run").summary()["outcome"] == "completed"
    assert not (tmp_path / "run" / "error.txt").exists()


def test_a_tracker_that_fails_costs_no_run(tmp_path, monkeypatch, caplog):
    from fedpurel_app.server import run as server

    class Broken:
        def log(self, metrics, step):
            raise ConnectionError("tracking server is gone")

        def close(self):
            raise AssertionError("it was dropped")

    monkeypatch.setattr(server, "open_trackers", lambda *arguments: [Broken()])
    assert run_tiny(tmp_path).summary()["outcome"] == "completed"
    assert "Broken is not used any more: tracking server is gone" in caplog.text


def test_resuming_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(StateError, match="is not a run folder"):
        run_tiny(tmp_path, resume_from=str(tmp_path))


# --- failures -----------------------------------------------------------------------------------------------------


def test_a_failed_run_says_why_and_keeps_what_it_reached(tmp_path):
    def broken(message, reply):
        if message.metadata.message_type == "train.personalize":
            raise_in_client = dict(message.content["config"])
            return type(reply)(error_of("CUDA out of memory"), reply_to=message) if raise_in_client else None
        return reply

    with pytest.raises(RunError, match="CUDA out of memory"):
        run_tiny(tmp_path, grid={"spy": broken}, max_failed_rounds=1)
    folder = EndedRun(tmp_path / "run")
    summary = folder.summary()
    assert summary["outcome"] == "failed" and "CUDA out of memory" in summary["error"]
    assert summary["global"]["all"] > 0 and summary["rounds"] == 3
    resumed = run_tiny(tmp_path, resume_from=str(folder.path), max_failed_rounds=1)
    assert resumed.summary()["outcome"] == "completed"


def error_of(reason):
    from flwr.app import Error

    return Error(code=2, reason=reason)


def test_dropped_replies_are_counted_and_told(tmp_path):
    """Site 0 sends NaN whenever it trains in a global round, and junk with its scores."""
    from flwr.app import ConfigRecord

    from fedpurel_app.core.records import ARRAYS, to_array_record, to_arrays

    def spy(message, reply):
        if message.metadata.dst_node_id != first:
            return
        if message.metadata.message_type == "train":
            arrays = to_arrays(reply.content[ARRAYS])
            reply.content[ARRAYS] = to_array_record({name: value * np.float32("nan") for name, value in arrays.items()})
        elif message.metadata.message_type == "evaluate":
            reply.content["junk"] = ConfigRecord({"junk": bytes(10**8)})

    first = next(iter(LocalGrid(client_app, 5, {}).contexts))
    folder = run_tiny(tmp_path, fraction_train=1.0, grid={"spy": spy})
    summary, rounds = folder.summary(), folder.rounds()[1:]
    reasons = [reason for line in rounds for site, reason in line["dropped"] if site == "site-0"]
    assert [reason for reason in reasons if "NaN or Inf" in reason] and len(reasons) == 3 + 4
    assert sum("bytes beside its arrays" in reason for reason in reasons) == 4
    assert summary["outcome"] == "completed" and summary["dropped_replies"] == len(reasons)
    assert summary["rounds_without_quorum"] == 0


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    folder = run_tiny(tmp_path)
    before = (folder.path / "summary.json").read_bytes()
    with pytest.raises(StateError, match="already holds a run"):
        run_tiny(tmp_path)
    assert (folder.path / "summary.json").read_bytes() == before


def test_a_diverged_private_branch_is_not_kept(tmp_path, monkeypatch):
    def diverge(module, *others):
        for _, value in module.named_parameters():
            value.data.fill_(math.nan)
        return {"loss": 1.0}

    def choose(module, data, visit, *rest):
        return (diverge if visit.rule is residual_step else train)(module, data, visit, *rest)

    monkeypatch.setattr(site, "train", choose)
    with pytest.raises(RunError, match="diverged"):
        run_tiny(tmp_path, global_rounds=1, max_failed_rounds=1)
    assert not private_files(RunFolder(tmp_path / "run"))


def test_bad_settings_fail_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="alpha"):
        run_tiny(tmp_path, alpha=-1)
    assert not (tmp_path / "run").exists()


def test_missing_sites_are_an_error_with_the_command_that_gives_them(tmp_path, monkeypatch):
    from fedpurel_app.strategies import FedPuReL

    connect = FedPuReL.connect

    def one_less(self, grid):
        grid.contexts.popitem()
        connect(self, grid)

    monkeypatch.setattr(FedPuReL, "connect", one_less)
    monkeypatch.setitem(FedPuReL.__init__.__kwdefaults__, "connect_timeout", 0.1)
    with pytest.raises(FedPurelError, match=r"4 of 5 sites.*flwr run . --stream.*num-supernodes=5"):
        run_tiny(tmp_path)


# --- images -------------------------------------------------------------------------------------------------------


def test_the_default_method_on_rendered_images(tmp_path, monkeypatch):
    """Prompt, both phases, on the demo CLIP, small: everything is finite and training moves the model."""
    monkeypatch.setattr("fedpurel_app.data.shapes.rendered.SHAPES_TEST", 4)
    settings = {"dataset": "shapes", "dataset_path": "", "peft": "prompt", "max_per_class": 6, "batch_size": 32}
    folder = run_tiny(tmp_path, num_sites=3, **settings)
    summary = folder.summary()
    assert summary["outcome"] == "completed"
    numbers = [value for line in folder.rounds()[1:] for value in line["train"].values()]
    assert numbers and all(math.isfinite(number) for number in numbers)
    assert summary["zero_shot"]["all"] > 20, "chance is 2"
    assert folder.rounds()[1]["train"]["drift"] > 0


@pytest.mark.skipif(not (SHARED / "cifar100").is_dir(), reason="the CIFAR-100 parquet files are not here")
@pytest.mark.slow
def test_real_images_go_through_the_demo_clip(tmp_path):
    """Accuracy means nothing here; counts, classes and both phases do."""
    folder = run_tiny(
        tmp_path,
        dataset="cifar100",
        dataset_path=str(SHARED / "cifar100"),
        peft="prompt",
        imbalance_factor=1,
        global_rounds=1,
        alpha=5.0,
        batch_size=32,
    )
    partition = folder.read_json("partition.json")
    counts = partition["train_counts"]
    assert (len(counts), max(counts), min(counts), sum(counts)) == (100, 500, 5, 10_847)
    assert folder.summary()["outcome"] == "completed" and folder.summary()["global"]["many"] is not None
    sizes = [len(members) for members in json.loads(json.dumps(partition["train"]))]
    assert sum(sizes) == 10_847
