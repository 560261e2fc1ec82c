"""SCAFFOLD by hand: the step, both control variates, and that a resumed run goes on with them."""

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from safetensors.numpy import load_file

from fedpurel_app.algorithms.base import Facts, Visited
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.algorithms.scaffold import controlled_step, next_control
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.records import ARRAYS, to_array_record, to_arrays
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.reporting.checkpoint import Checkpoint
from fedpurel_app.strategies import FedPuReL, Schedule
from fedpurel_app.strategies.parts import Reply, load_part
from tests.algorithms.test_methods import a_batch, autograd, same, shared, task_loss, text_module
from tests.support import run_tiny


def test_a_step_adds_the_difference_of_the_control_variates():
    module, c, c_k = text_module(1.0), torch.full((3, 2), 0.5), torch.full((3, 2), 0.2)
    batch = a_batch(module, "scaffold", facts=Facts(brief={"residual": c}))
    batch.memory["residual"] = c_k
    (found,), _ = controlled_step(batch)
    assert torch.allclose(found, autograd(module, task_loss(module))[0] + 0.3, atol=1e-6)


def test_a_sites_control_variate_becomes_the_mean_slope_of_its_visit():
    """c_k' = c_k - c + (x - y) / (K eta) = 1 - 0.5 + (1 - 0.4) / 0.2; what has no c, as it is not sent, has no c_k'."""
    memory = {"w": torch.tensor([1.0]), "kept": torch.tensor([1.0])}
    x, y = [torch.tensor([1.0])] * 2, [torch.tensor([0.4])] * 2
    next_control(Visited(["w", "kept"], x, y, 0.2, Facts(brief={"w": torch.tensor([0.5])}), {}, memory))
    assert memory["w"].item() == pytest.approx(3.5) and memory["kept"].item() == 1


def a_part():
    part = load_part("scaffold", {}, SgdSettings(0.1, 0.0, 0.0, batch_size=2, epochs=1))
    assert part is not None
    return part


def test_the_servers_control_variate_is_the_mean_of_the_sites_by_their_images():
    """Two steps of 0.1 on 4 images: slopes (1 - 0.4) / 0.2 = 3 and (1 - 1.2) / 0.2 = -1, of 30 and 10 in 80 images.

    c = 30/80 3 + 10/80 (-1) = 1, then 1 + 30/80 (3 - 1) + 10/80 (-1 - 1) = 1.5; where other sites come, and there are
    160 images, 1.5/2 + 30/160 (3 - 1.5) + 10/160 (-1 - 1.5) = 0.875.
    """
    part, sent = a_part(), {"w": np.array([1.0], np.float32)}
    assert part.brief(sent, "a")["w"] == 0
    replies = {
        "a": Reply({"w": np.array([0.4], np.float32)}, 4, 30),
        "b": Reply({"w": np.array([1.2], np.float32)}, 4, 10),
    }
    for examples, expected in ((80, 1.0), (80, 1.5), (160, 0.875)):
        assert part.finish(sent, {"w": np.array([0.8], np.float32)}, replies, examples)["w"] == np.float32(0.8)
        assert part.brief(sent, "a")["w"] == pytest.approx(expected, abs=1e-6)
    again = a_part()
    again.restore(part.state())
    assert again.brief(sent, "b")["w"] == part.brief(sent, "b")["w"]
    with pytest.raises(ValueError, match="finite"):
        part.finish(sent, sent, {"a": Reply({"w": np.array([3e38], np.float32)}, 4, 30)}, 30)
    assert part.brief(sent, "a")["w"] == pytest.approx(0.875, abs=1e-6), "what cannot be used moves nothing"


def gap(folder):
    """Return how far c is from the mean of the c_k by numbers of images, and the largest c."""
    parts = folder.read_json("partition.json")["train"]
    sites = {path.parent.name: load_file(path) for path in sorted(folder.path.rglob("private-*.safetensors"))}
    c = Checkpoint(folder.path).read()[2]["c/residual"]
    mean = sum(len(rows) * sites[f"site-{index}"]["memory/residual"] for index, rows in enumerate(parts) if rows) / sum(
        map(len, parts)
    )
    return float(np.abs(c - mean).max()), float(np.abs(c).max())


@pytest.mark.parametrize(
    ("lost", "changes"),
    [
        (None, {}),
        ("one reply", {}),
        ("its round", {"min_replies": 5}),
        ("one reply", {"fraction_train": 0.6}),
    ],
)
def test_the_servers_is_the_mean_of_the_sites_whatever_is_lost(tmp_path, lost, changes):
    """A reply that is dropped, and a round that keeps the old model, leave both as they were."""
    seen = []

    def spy(message, reply):
        if lost and message.metadata.message_type == "train" and message.content["config"]["round"] == 2:
            seen.append(message.metadata.dst_node_id)
            if len(seen) == 1:
                arrays = to_arrays(reply.content[ARRAYS])
                reply.content[ARRAYS] = to_array_record(
                    {name: value + np.float32("nan") for name, value in arrays.items()}
                )

    rounds = {"algorithm": "scaffold", "global_rounds": 6, "personal_rounds": -1, "fraction_train": 1.0, **changes}
    folder = run_tiny(tmp_path, **rounds, grid={"spy": spy})
    assert [line["kept_old_model"] for line in folder.rounds()[1:]] == [False, lost == "its round", *[False] * 4]
    apart, size = gap(folder)
    assert apart < 1e-5 < 1e-2 < size


def test_a_lie_costs_a_round_and_no_run(tmp_path):
    def spy(message, reply):
        if message.metadata.message_type == "train" and message.content["config"]["round"] == 2:
            arrays = to_arrays(reply.content[ARRAYS])
            reply.content[ARRAYS] = to_array_record({name: np.full_like(value, 3e38) for name, value in arrays.items()})

    rounds = {"algorithm": "scaffold", "global_rounds": 4, "personal_rounds": -1, "learning_rate": 0.01}
    folder = run_tiny(tmp_path, **rounds, grid={"spy": spy})
    assert [line["kept_old_model"] for line in folder.rounds()[1:]] == [False, True, False, False]
    assert all(np.isfinite(value).all() for value in Checkpoint(folder.path).read()[2].values())


def test_a_part_at_the_server_goes_with_no_strategy_that_clips():
    clipping = DifferentialPrivacyServerSideFixedClipping(FedAvg(fraction_train=1.0), 1.0, 1.0, 2)
    with pytest.raises(ValueError, match="clips"):
        FedPuReL(Schedule(1, 0), clipping, part=a_part())


def test_a_control_variate_of_another_shape_is_refused():
    batch = a_batch(text_module(), "scaffold", facts=Facts(brief={"residual": torch.zeros(())}))
    batch.memory["residual"] = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="other shapes"):
        controlled_step(batch)


@pytest.mark.parametrize("family", ["text-residual", "adapter"])
def test_its_first_round_is_fedavgs(tmp_path, family):
    rounds = {"peft": family, "global_rounds": 1, "personal_rounds": -1}
    plain = shared(run_tiny(tmp_path / "a", algorithm="fedavg", **rounds))
    held = shared(run_tiny(tmp_path / "b", algorithm="scaffold", **rounds))
    assert same(plain, {name: value for name, value in held.items() if not name.startswith("part/")})


def test_where_all_that_there_is_lies_at_one_site_it_is_fedavg(tmp_path):
    """Then c = c_k after every round, and the correction is zero but for rounding."""
    rounds = {"num_sites": 1, "fraction_train": 1.0, "global_rounds": 4, "personal_rounds": -1, "momentum": 0.9}
    plain = shared(run_tiny(tmp_path / "a", algorithm="fedavg", **rounds))
    held = shared(run_tiny(tmp_path / "b", algorithm="scaffold", **rounds))
    assert all(np.allclose(held[name], value, atol=1e-5) for name, value in plain.items())
    several = {**rounds, "num_sites": 3}
    plain = shared(run_tiny(tmp_path / "c", algorithm="fedavg", **several))
    held = shared(run_tiny(tmp_path / "d", algorithm="scaffold", **several))
    assert not all(np.allclose(held[name], value, atol=1e-5) for name, value in plain.items())


@pytest.mark.parametrize("change", [{"privacy": "server-fixed"}, {"aggregation": "median"}])
def test_it_is_refused_where_single_replies_are_hidden_or_bounded(change):
    with pytest.raises(ConfigError, match="goes by every single reply"):
        load_config({"algorithm": "scaffold", **change})


def test_no_site_has_a_model_of_its_own():
    assert METHODS["scaffold"].load().personalized is None and not METHODS["scaffold"].personalizes
