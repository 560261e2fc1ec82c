"""CoAction, by hand: attention among tasks, whose embedding is trained, what is sent and kept, and both schedules."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from fedpurel_app.algorithms.base import Begun, Facts, Models, Visited
from fedpurel_app.algorithms.pareto import pareto_step
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.phase import Phase
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.models.peft.attention import Attention
from fedpurel_app.models.peft.pareto import Pareto
from fedpurel_app.reporting.checkpoint import Checkpoint
from tests.algorithms.test_copsl import COMMON, INPUTS, LABELS, LOG_PRIOR, PLANE, Text, a_batch, generator
from tests.support import private_files, run_tiny, run_whole_and_resumed, timeless

COACTION = METHODS["coaction"]
VISIT = COACTION.load().visits[Phase.PERSONAL]
OPTIONS = COACTION.defaults()
P = torch.tensor([0.3, 0.7])
EMBEDDINGS = ["fingerprint", "learned"]


def a_knob(learns: bool = False) -> Attention:
    """With embeddings that count as much as the preference, and norms that are not the identity."""
    knob = Attention(2, 8, generator(), learns).eval()
    with torch.no_grad():
        for norm in (knob.norm_tokens, knob.norm_mixed):
            norm.weight.uniform_(0.5, 1.5, generator=generator())
            norm.bias.uniform_(-0.5, 0.5, generator=generator())
    return knob


def rows(count: int) -> Tensor:
    return torch.randn(count, 32, generator=generator())


def a_pareto(learns: bool = False) -> Pareto:
    base: Any = Text(PLANE)
    return Pareto(base, a_knob(learns), 2, 8)


# --- the knob ---------------------------------------------------------------------------------------------------------


def test_the_knob_has_as_many_numbers_as_is_said():
    """W_p 96, the encoder 8,544, W_o 264; 32 more where the embedding is learned."""
    sizes = {name: value.numel() for name, value in Attention(2, 8, generator()).named_parameters()}
    ends = ("preference", "coordinates")
    assert [sum(size for name, size in sizes.items() if name.startswith(end)) for end in ends] == [96, 264]
    assert sum(sizes.values()) == 96 + 8544 + 264 == 8904
    assert sum(value.numel() for value in Attention(2, 8, generator(), learns=True).parameters()) == 8936


def test_it_is_torchs_own_encoder_layer_read_at_the_first_token():
    knob, tasks = a_knob(), rows(5)
    layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True).eval()
    three = (knob.query, knob.key, knob.value)
    pairs = {"linear1": knob.inner, "linear2": knob.outer, "norm1": knob.norm_tokens, "norm2": knob.norm_mixed,
             "self_attn.out_proj": knob.mixed}  # fmt: skip
    state = {f"{name}.{kind}": getattr(one, kind) for name, one in pairs.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        state[f"self_attn.in_proj_{kind}"] = torch.cat([getattr(one, kind) for one in three])
    layer.load_state_dict(state)
    tokens = knob.preference(P) + tasks
    expected = knob.coordinates(layer(tokens[None])[0, 0])
    assert torch.allclose(knob(P, tasks), expected, atol=1e-6)
    normed = layer.norm1(tokens)[None]
    _, weights = layer.self_attn(normed, normed, normed)
    found = knob.attention(P, tasks)
    assert torch.allclose(found, weights[0, 0], atol=1e-6) and float(found.detach().std()) > 1e-3
    assert float(found.detach().sum()) == pytest.approx(1, abs=1e-6)


def test_the_order_of_the_others_does_not_matter_and_who_they_are_does():
    knob, tasks = a_knob(), rows(6)
    order = [0, 4, 2, 5, 1, 3]
    assert torch.allclose(knob(P, tasks), knob(P, tasks[order]), atol=1e-6)
    assert torch.allclose(knob.attention(P, tasks)[order], knob.attention(P, tasks[order]), atol=1e-6)
    assert not torch.allclose(knob(P, tasks), knob(P, tasks[:5]), atol=1e-4)
    assert not torch.allclose(knob(P, tasks), knob(P, tasks[[1, 0, 2, 3, 4, 5]]), atol=1e-4)


def test_equal_tasks_are_as_one_and_one_is_no_attention_at_all():
    """K = 1: weight 1, so that a = t + W_a W_v LN(t), h = W_o (a + W_2 relu(W_1 LN'(a)))."""
    knob, own = a_knob(), rows(1)
    assert torch.allclose(knob(P, own.expand(7, 32)), knob(P, own), atol=1e-6)
    assert torch.equal(knob.attention(P, own), torch.ones(1))

    def normed(value: Tensor, norm: nn.LayerNorm) -> Tensor:
        centred = value - value.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * norm.weight + norm.bias

    def through(value: Tensor, layer: nn.Linear) -> Tensor:
        return layer.weight @ value + layer.bias

    token = through(P, knob.preference) + own[0]
    token = token + through(through(normed(token, knob.norm_tokens), knob.value), knob.mixed)
    token = token + through(through(normed(token, knob.norm_mixed), knob.inner).clamp(min=0), knob.outer)
    assert torch.allclose(knob(P, own), through(token, knob.coordinates), atol=1e-6)
    assert torch.equal(knob(P), knob(P, torch.zeros(1, 32)))


def test_the_seed_decides_what_it_begins_with():
    one, other = (Attention(2, 8, torch.Generator().manual_seed(seed)).state_dict() for seed in (1, 2))
    again = Attention(2, 8, torch.Generator().manual_seed(1)).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["query.weight"], other["query.weight"])
    assert not torch.equal(one["query.weight"], one["key.weight"])


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learns", [False, True])
def test_a_step_reaches_the_knob_and_the_own_embedding_alone(learns):
    """Of the embeddings e_j the loss has gradients, too; no parameter of the site is one of another site."""
    module, tasks = a_pareto(learns), rows(4)
    module.log_prior, module.tasks = LOG_PRIOR, tasks
    with torch.no_grad():
        dict(module.named_parameters())["own.basis.text"].normal_(generator=generator())
    names = [name for name, _ in module.named_parameters()]
    assert ("h.embedding" in names) == learns and sum("embedding" in name for name in names) == learns
    gradients, _ = pareto_step(a_batch(module, INPUTS, LABELS, COMMON))
    found = dict(zip(names, gradients, strict=True))
    assert all(bool(value.any()) for name, value in found.items() if name != "h.key.bias"), "softmax drops that one"
    assert tasks.grad is None and torch.equal(tasks, rows(4))
    everyone = rows(4).requires_grad_()
    (gradient,) = torch.autograd.grad(module.at(P, None, everyone).parameters_at(P)["text"].sum(), everyone)
    assert gradient[1:].any(), "there is one to discard"


def test_in_training_the_own_row_is_the_parameter_and_in_use_the_row_that_is_remembered():
    knob, tasks = a_knob(learns=True), rows(3)
    with torch.no_grad():
        dict(knob.named_parameters())["embedding"].copy_(tasks[2])
    in_use = knob(P, tasks)
    knob.train()
    assert torch.equal(knob(P, tasks), knob(P, torch.cat([tasks[2:], tasks[1:]])))
    assert not torch.allclose(knob(P, tasks), in_use, atol=1e-4)


# --- a visit ----------------------------------------------------------------------------------------------------------


def begun(module, brief=None, memory=None):
    facts = Facts(counts=torch.tensor([3, 1]), brief=brief or {})
    one = Begun(module, INPUTS, LABELS, facts, OPTIONS, {} if memory is None else memory)
    assert VISIT.begin is not None
    VISIT.begin(one)
    return one.memory


def test_a_site_remembers_the_tasks_that_came_and_predicts_by_them():
    module, tasks = a_pareto(), rows(4)
    with torch.no_grad():
        dict(module.named_parameters())["own.basis.text"].normal_(generator=generator())
    memory = begun(module, {"tasks": tasks})
    assert torch.equal(memory["tasks"], tasks) and module.tasks is memory["tasks"] and "log-prior" in memory
    shared: Any = Text(torch.eye(2))
    personalized = COACTION.load().personalized
    assert personalized is not None
    (_, own), (_, alone) = (personalized(Models(shared, module, one)) for one in (memory, {**memory, "tasks": rows(1)}))
    assert torch.equal(own.frozen()(INPUTS), INPUTS @ module.parameters_at(torch.tensor([1.0, 0.0]))["text"].T)
    assert not torch.allclose(own.frozen()(INPUTS), alone.frozen()(INPUTS), atol=1e-4)
    # A server that sends none this time: those seen last. A site that never saw any is alone.
    again = begun(a_pareto(), memory=dict(memory))
    assert torch.equal(again["tasks"], tasks)
    assert torch.equal(begun(a_pareto())["tasks"], torch.zeros(1, 32))


def test_a_learned_embedding_goes_on_from_where_the_site_left_it():
    module, tasks = a_pareto(learns=True), rows(4)
    values = dict(module.named_parameters())
    memory = begun(module, {"tasks": tasks})
    assert torch.equal(values["h.embedding"], tasks[0]), "at a first visit from what came"
    trained = torch.full((32,), 0.5)
    assert VISIT.end is not None
    names = list(values)
    after = [trained if name == "h.embedding" else value.detach() for name, value in values.items()]
    VISIT.end(Visited(names, after, after, 1.0, Facts(), OPTIONS, memory))
    assert torch.equal(memory["tasks"][0], trained) and torch.equal(memory["tasks"][1:], tasks[1:])
    other, others = a_pareto(learns=True), -rows(6)
    with torch.no_grad():
        dict(other.named_parameters())["h.embedding"].fill_(9)  # the mean over sites, which is nobody's
    memory = begun(other, {"tasks": others}, memory)
    assert torch.equal(dict(other.named_parameters())["h.embedding"], trained)
    assert torch.equal(memory["tasks"], torch.cat([trained[None], others[1:]]))


@pytest.mark.parametrize(
    "tasks",
    [
        torch.zeros(0, 32),
        torch.zeros(3, 31),
        torch.zeros(32),
        torch.zeros(1, 1, 32),
        torch.zeros(2, 32, dtype=torch.float64),
        torch.zeros(2, 32, dtype=torch.int64),
        torch.zeros(10_001, 32),
        torch.full((2, 32), math.nan),
        torch.full((2, 32), -math.inf),
        torch.full((2, 32), 1e4),
    ],
    ids=lambda one: f"{one.dtype}{tuple(one.shape)} {one.reshape(-1)[:1].tolist()}",
)
def test_other_embeddings_are_refused(tasks):
    with pytest.raises(ValueError, match="expected 1 to 10000 rows of 32 finite float32 numbers of at most 1000"):
        begun(a_pareto(), {"tasks": tasks})


# --- runs -------------------------------------------------------------------------------------------------------------

SMALL = {"algorithm": "coaction", "global_rounds": 2, "experiment_id": "e", "learning_rate": 0.5}
SMALL |= {"private_learning_rate": 0.5}


@pytest.mark.parametrize("schedule", ["two-phase", "interleaved"])
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_what_is_sent_and_what_each_site_is_told(tmp_path, embedding, schedule):
    replies: list[dict[str, np.ndarray]] = []
    told: dict[int, dict[str, np.ndarray]] = {}
    global_replies: set[str] = set()

    def spy(message, reply):
        kind, number = message.metadata.message_type, message.content.get("config", {}).get("round")
        if kind == "train":
            global_replies.update(reply.content["arrays"])
            assert "brief" not in message.content and set(message.content["arrays"]) == {"residual"}
        elif kind == "train.personalize":
            sent = {name: value.numpy() for name, value in reply.content["arrays"].items()}
            brief = {name: value.numpy() for name, value in message.content["brief"].items()}
            assert set(brief) == {"tasks"} and brief["tasks"].dtype == np.float32
            told.setdefault(number, {})[str(message.metadata.dst_node_id)] = brief["tasks"]
            replies.append(sent)
            assert set(reply.content) == {"arrays", "metrics"}
        elif kind == "evaluate":
            assert "brief" not in message.content

    folder = run_tiny(tmp_path, **SMALL, task_embedding=embedding, schedule=schedule, grid={"spy": spy})
    assert global_replies == {"residual"} and folder.summary()["outcome"] == "completed"
    for sent in replies:
        assert all(name.startswith("h.") for name in sent)
        assert sum(value.size for value in sent.values()) == 8904 + 32 * (embedding == "learned")
        assert ("h.embedding" in sent) == (embedding == "learned")
    last = told[max(told)]
    for one in last.values():
        assert one.shape[1] == 32 and len(one) >= 2
        lengths = np.linalg.norm(one, axis=1)
        if embedding == "fingerprint":
            assert all(length == pytest.approx(1, abs=1e-5) or length == 0 for length in lengths)
            assert not lengths.all() or len({tuple(row) for row in one}) == len(one)
    kept = [load_file(path) for path in folder.path.rglob("private-*.safetensors")]
    assert {name for one in kept for name in one} == {
        "own.residual", "own.basis.residual", "memory/log-prior", "memory/tasks"
    }  # fmt: skip
    site = next(iter(folder.read_checkpoint()[1]["private_rounds"]))
    inputs = torch.from_numpy(np.load(tmp_path / "features.npz")["test_features"])
    own, even = (load_trained(folder.path, site, preference=[value]).logits(inputs) for value in (1.0, 0.0))
    assert not torch.allclose(own, even)


def test_global_rounds_are_those_of_fedpurel_to_the_bit(tmp_path):
    one = {key: value for key, value in SMALL.items() if not key.startswith("private")}
    ours = run_tiny(tmp_path / "ours", **one, personal_rounds=1)
    theirs = run_tiny(tmp_path / "theirs", **one | {"algorithm": "fedpurel"}, personal_rounds=1)
    first, second = (folder.read_checkpoint()[0]["residual"].tobytes() for folder in (ours, theirs))
    assert first == second and ours.rounds()[1]["bytes_down"] == theirs.rounds()[1]["bytes_down"]
    assert ours.rounds()[1]["train"] == theirs.rounds()[1]["train"]


@pytest.mark.parametrize(("embedding", "schedule"), [("fingerprint", "interleaved"), ("learned", "two-phase")])
def test_a_resumed_run_is_the_same_run(tmp_path, embedding, schedule):
    changes = SMALL | {"schedule": schedule, "task_embedding": embedding, "fraction_train": 0.7}
    whole, cut = run_whole_and_resumed(tmp_path, "train.personalize", 4, **changes)
    assert private_files(cut) and private_files(cut) == private_files(whole) and timeless(cut) == timeless(whole)
    for first, second in zip(Checkpoint(whole.path).read()[::2], Checkpoint(cut.path).read()[::2], strict=True):
        assert {name: value.tobytes() for name, value in first.items()} == {
            name: value.tobytes() for name, value in second.items()
        }
        assert len(first) > 1


def test_a_knob_of_no_rank_asks_nobody(tmp_path):
    def spy(message, reply):
        assert "brief" not in message.content

    folder = run_tiny(tmp_path, **SMALL, pareto_rank=0, grid={"spy": spy})
    assert set(folder.read_checkpoint()[0]) == {"residual"} and not Checkpoint(folder.path).read()[2]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"privacy": "server-fixed"}, 'set privacy = "none"'),
        ({"aggregation": "median"}, 'aggregation = "mean"'),
        ({"aggregation": "median", "task-embedding": "learned"}, 'aggregation = "mean"'),
        ({"balancer": "logit-adjustment"}, 'set balancer = "none"'),
        ({"peft": "lora", "shares": "lora-a"}, 'set shares = "all", or task-embedding = "learned"'),
        ({"peft": "lora", "compression": "sketch"}, '"top-k", or task-embedding = "learned"'),
        ({"global-rounds": 0, "personal-rounds": 2}, 'set more, or task-embedding = "learned"'),
        ({"pareto-rank": 0, "task-embedding": "learned"}, "it has no use with pareto-rank = 0"),
        ({"task-embedding": "mean"}, "task-embedding"),
        ({"algorithm": "copsl", "task-embedding": "learned"}, '"coaction"'),
    ],
    ids=str,
)
def test_what_it_cannot_go_with_is_refused(changes, what):
    with pytest.raises(ConfigError, match=what):
        load_config({"algorithm": "coaction", **changes})


def test_images_to_probe_with_are_for_fingerprints_alone(tmp_path):
    probed = {"algorithm": "coaction", "dataset": "shapes", "probe-path": str(tmp_path)}
    assert load_config(probed).probe_path
    for changes in ({"task-embedding": "learned"}, {"pareto-rank": 0}, {"algorithm": "copsl"}):
        with pytest.raises(ConfigError, match="probe-path has no use"):
            load_config({**probed, **changes})


def test_what_needs_no_fingerprints_goes_with_a_learned_embedding():
    learned = {"algorithm": "coaction", "task-embedding": "learned", "peft": "lora"}
    for changes in ({"shares": "lora-a"}, {"compression": "sketch"}, {"global-rounds": 0, "personal-rounds": 2}):
        assert load_config({**learned, **changes}).algorithm == "coaction"
