"""Whole runs in the manner of ELSA, what they are refused with, and what leaves a site for them."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedpurel_app.algorithms.registry import METHODS, trusts
from fedpurel_app.config import load_config, load_node_config
from fedpurel_app.config.presets import load_preset, merged
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.records import ARRAYS, BRIEF, CONFIG, to_array_record, to_arrays
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.models.peft.base import parameters_of
from fedpurel_app.reporting.checkpoint import Checkpoint
from tests.support import run_tiny, run_whole_and_resumed, timeless
from tests.test_compression import wide
from tests.test_trust import same_model

ON = {"algorithm": "elsa", "fraction_train": 1.0, "global_rounds": 4}


def watching(seen, change=None):
    """Make a spy that keeps what every site is sent in each global round, and lets ``change`` have a reply."""

    def spy(message, reply):
        if message.metadata.message_type == "train":
            number = message.content[CONFIG]["round"]
            seen.setdefault(number, []).append(to_arrays(message.content[ARRAYS])["residual"].tobytes())
        if change is not None:
            change(message, reply)

    return {"spy": spy}


def test_sites_of_a_cluster_get_one_model_in_every_second_round_and_all_the_same_in_the_others(tmp_path):
    seen: dict[int, list[bytes]] = {}
    folder = run_tiny(tmp_path, **ON, clusters=2, grid=watching(seen))
    assert [len(set(seen[number])) for number in (1, 2, 3, 4)] == [1, 2, 1, 2]
    for line in folder.rounds()[1:]:
        assert line["trust"].keys() == set(line["usable"]), "trust is the method's"
        assert sorted(site for group in line["clusters"].values() for site in group) == sorted(line["usable"])
        assert list(line["clusters"]) == ["0", "1"]
    assert folder.summary()["outcome"] == "completed"


def test_a_site_keeps_the_model_of_its_cluster_and_predicts_by_it(tmp_path):
    """With E = 3 the third round begins at the clusters' means of the second; the fourth at the mean of all."""
    seen: dict[int, dict[int, tuple[np.ndarray, bool]]] = {}

    def spy(message, reply):
        if message.metadata.message_type == "train":
            content = message.content
            sent = seen.setdefault(content[CONFIG]["round"], {})
            sent[message.metadata.dst_node_id] = (to_arrays(content[ARRAYS])["residual"], BRIEF in content)

    folder = run_tiny(tmp_path, **ON, clusters=2, edge_rounds=3, grid={"spy": spy})
    assert [sum(apart for _, apart in seen[number].values()) for number in (1, 2, 3, 4)] == [0, 5, 5, 0]
    told = {one.tobytes() for one, _ in seen[3].values()}
    files = (folder.path / "private").rglob("private-000004.safetensors")
    kept = {path.parent.name: load_file(path)["memory/cluster/residual"] for path in files}
    assert len(kept) == 5 and len(told) == 2 and {one.tobytes() for one in kept.values()} == told
    assert {row["has_private_branch"] for row in folder.read_csv("sites.csv")} == {"1"}
    assert folder.summary()["personalized"]["all"] is not None
    one, other = (load_trained(folder.path, site) for site in ("site-0", ""))
    parameters = {name: value.numpy() for name, value in parameters_of(one.branches["global"]).items()}
    assert np.array_equal(parameters["residual"], kept["site-0"])
    inputs = torch.randn(4, 8)
    assert not torch.equal(one.logits(inputs), other.logits(inputs))


def test_without_trust_and_clusters_it_is_fedavg_to_the_bit(tmp_path):
    plain = run_tiny(tmp_path / "a", **ON | {"algorithm": "fedavg"})
    ours = run_tiny(tmp_path / "b", **ON, trust="none", edge_rounds=1)
    trusted = run_tiny(tmp_path / "c", **ON, edge_rounds=1, trust_tolerance=1e6)
    assert timeless(plain) == timeless(ours) and same_model(plain, ours) and same_model(plain, trusted)
    assert not Checkpoint(ours.path).read()[2] and not (ours.path / "private").exists()
    assert not same_model(plain, run_tiny(tmp_path / "d", **ON, trust="none"))


@pytest.mark.parametrize("distance", ["cosine", "symmetric-kl", "gaussian"])
@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_resumed_run_goes_on_bit_for_bit_wherever_it_was_cut_off(tmp_path, distance, number):
    more = {**ON, "edge_rounds": 3, "clusters": 3, "cluster_every": 2, "fraction_train": 0.8}
    whole, resumed = run_whole_and_resumed(tmp_path, "train", number, **more, cluster_distance=distance)
    assert timeless(whole) == timeless(resumed) and same_model(whole, resumed)
    left, right = (Checkpoint(one.path).read()[2] for one in (whole, resumed))
    assert left.keys() == right.keys() and all(np.array_equal(value, right[key]) for key, value in left.items())


def test_a_lost_round_is_played_again_and_no_cluster_moves(tmp_path):
    def lose(message, reply):
        if message.metadata.message_type == "train" and message.content[CONFIG]["round"] == 2:
            arrays = to_arrays(reply.content[ARRAYS])
            reply.content[ARRAYS] = to_array_record({name: value * np.nan for name, value in arrays.items()})

    seen: dict[int, list[bytes]] = {}
    folder = run_tiny(tmp_path, **ON, clusters=2, grid=watching(seen, lose))
    assert [line["kept_old_model"] for line in folder.rounds()[1:]] == [False, True, False, False]
    assert [len(set(seen[number])) for number in (1, 2, 3, 4)] == [1, 2, 2, 1]
    assert sorted(seen[2]) == sorted(seen[3])


@pytest.mark.parametrize("trust", ["auto", "none"])
@pytest.mark.parametrize("value", [3e38, -1e30, np.nan])
@pytest.mark.parametrize("distance", ["cosine", "gaussian"])
def test_a_hostile_reply_ends_nothing(tmp_path, value, distance, trust):
    def forge(message, reply):
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 7919:
            arrays = to_arrays(reply.content[ARRAYS])
            forged = {name: np.full_like(one, value) for name, one in arrays.items()}
            reply.content[ARRAYS] = to_array_record(forged)

    folder = run_tiny(tmp_path, **ON, trust=trust, cluster_distance=distance, grid={"spy": forge})
    assert folder.summary()["outcome"] == "completed"
    assert not any(line["kept_old_model"] for line in folder.rounds()[1:])
    assert all(np.isfinite(one).all() for one in Checkpoint(folder.path).read()[0].values())
    if trust == "auto" and not np.isnan(value):
        assert all(line["trust"]["site-0"] < 1e-3 for line in folder.rounds()[1:])


def test_it_goes_with_replies_that_are_shortened(tmp_path):
    more = {"algorithm": "elsa", "fraction_train": 1.0, "clusters": 2, "global_rounds": 3}
    short = wide(tmp_path, **more, compression="top-k")
    assert short.summary()["outcome"] == "completed" and not short.summary()["dropped_replies"]


# --- edges --------------------------------------------------------------------------------------------------------


def edged(change=None):
    """Have sites 0 and 1 in the north, others in the south."""
    nodes = [
        {"partition-id": site, "num-partitions": 5, "simulation": True, "edge": "north" if site < 2 else "south"}
        for site in range(5)
    ]

    def spy(message, reply):
        if message.metadata.message_type == "query.describe":
            said.append(reply.content[CONFIG].get("edge"))
            if change is not None:
                change(message, reply)

    said: list[object] = []
    return {"nodes": nodes, "spy": spy}, said


def test_a_site_says_its_edge_where_that_is_asked_for_and_nowhere_else(tmp_path):
    grid, said = edged()
    folder = run_tiny(tmp_path / "a", **ON, edge_assignment="node", grid=grid)
    assert sorted(map(str, said)) == ["north"] * 2 + ["south"] * 3
    assert folder.rounds()[-1]["clusters"] == {"north": ["site-0", "site-1"], "south": ["site-2", "site-3", "site-4"]}
    for name, more in (("b", {}), ("c", {"algorithm": "fedavg"})):
        grid, said = edged()
        run_tiny(tmp_path / name, **ON | more, grid=grid)
        assert said == [None] * 5


@pytest.mark.parametrize("edge", ["../../etc", "a\nb", "x" * 100])
def test_a_hostile_edge_leaves_its_site_out_and_the_run_goes_on(tmp_path, edge):
    def forge(message, reply):
        if message.metadata.dst_node_id == 7919:
            reply.content[CONFIG]["edge"] = edge

    grid, _ = edged(forge)
    folder = run_tiny(tmp_path, **ON, edge_assignment="node", num_sites=0, grid=grid)
    assert folder.summary()["outcome"] == "completed"
    south = ["site-2", "site-3", "site-4"]
    assert folder.rounds()[-1]["clusters"] == {"north": ["site-1"], "south": south}


def test_resumed_with_edges_by_name(tmp_path):
    grid, _ = edged()
    more = {**ON, "edge_assignment": "node", "edge_rounds": 4}
    whole = run_tiny(tmp_path / "a", **more, grid={"nodes": grid["nodes"]}, experiment_id="e")

    def stop(message, reply):
        if message.metadata.message_type == "train" and message.content[CONFIG]["round"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "b", **more, grid={"nodes": grid["nodes"], "spy": stop}, experiment_id="e")
    resumed = run_tiny(
        tmp_path / "b", **more, grid={"nodes": grid["nodes"]}, experiment_id="e",
        resume_from=str(tmp_path / "b" / "run"), out="",
    )  # fmt: skip
    assert timeless(whole) == timeless(resumed) and same_model(whole, resumed)


# --- settings -----------------------------------------------------------------------------------------------------


def test_trust_is_left_to_the_method_and_a_word_of_ones_own_counts():
    assert load_config({"algorithm": "elsa"}).trusts and not load_config({"algorithm": "fedavg"}).trusts
    assert not load_config({"algorithm": "elsa", "trust": "none"}).trusts
    assert not trusts({"algorithm": "elsa"}), "a run of a version that knew of none"
    assert [name for name, method in METHODS.items() if method.trusts] == ["elsa"]


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"privacy": "server-fixed", "trust": "none"}, "goes by every single reply"),
        ({"aggregation": "median", "trust": "none"}, "goes by every single reply"),
        ({"aggregation": "median", "edge-rounds": 1}, 'which algorithm = "elsa" sets'),
        ({"peft": "lora", "shares": "lora-a", "trust": "none"}, 'set shares = "all"'),
        ({"peft": "lora", "compression": "sketch", "trust": "none"}, "coarse estimate"),
        ({"peft": "lora", "compression": "sketch", "edge-rounds": 1}, 'compression = "none" or "top-k"'),
        ({"split": "text"}, 'split = "text" does not go with'),
        ({"peft": "visual-prompt", "prompt-relocation": "bandit"}, "moves them to other blocks"),
        ({"edge-assignment": "latency"}, "is not built: like speeds together save nothing while a round waits"),
        ({"edge-assignment": "node", "clusters": 3}, 'clusters = 3: it has no use with edge-assignment = "node"'),
        ({"edge-rounds": 1, "cluster-every": 3}, "cluster-every = 3: it has no use with edge-rounds = 1"),
        ({"edge-rounds": 1, "edge-assignment": "node"}, "has no use with edge-rounds = 1"),
        ({"trust": "none", "trust-tolerance": 5.0}, 'no use with trust = "none"'),
        ({"algorithm": "fedavg", "edge-rounds": 2 + 1}, 'it belongs to algorithm = "elsa"'),
        ({"algorithm": "fedavg", "clusters": 3}, 'it belongs to algorithm = "capt" or "elsa"'),
    ],
)
def test_what_does_not_go_together_is_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        load_config({"algorithm": "elsa", **changes})


def test_probes_of_ones_own_are_of_use_to_clusters_without_trust(tmp_path):
    load_config({"algorithm": "elsa", "trust": "none", "probe-path": str(tmp_path)})
    with pytest.raises(ConfigError, match="probe-path has no use"):
        load_config({"algorithm": "elsa", "trust": "none", "edge-rounds": 1, "probe-path": str(tmp_path)})


def test_a_node_refuses_an_edge_that_is_no_name(tmp_path):
    assert load_node_config({"site": "a", "data": "/data", "edge": "north"}).edge == "north"
    with pytest.raises(ConfigError, match="edge"):
        load_node_config({"site": "a", "data": "/data", "edge": "../x"})


def test_the_compressed_preset_is_fedavg_with_a_sketch(tmp_path):
    values = merged(load_preset("elsa-compressed"), {})
    config = load_config(values)
    assert not config.trusts and config.model_dump()["edge_rounds"] == 1
    more = {"algorithm": "elsa", "compression": "sketch", "trust": "none", "edge_rounds": 1, "global_rounds": 2}
    ours = wide(tmp_path / "a", **more)
    del more["edge_rounds"]
    assert same_model(ours, wide(tmp_path / "b", **more | {"algorithm": "fedavg"}))
