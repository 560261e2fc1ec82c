"""SCAFFOLD by hand: the step, both control variates, and that a resumed run goes on with them."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedpurel_app.algorithms.base import Facts, Visited
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.algorithms.scaffold import controlled_step, next_control
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.strategies.parts import Reply, load_part
from tests.algorithms.test_methods import a_batch, autograd, same, shared, task_loss, text_module
from tests.support import private_files, run_tiny, timeless


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
    numbers = next_control(Visited(["w", "kept"], x, y, 0.2, Facts(brief={"w": torch.tensor([0.5])}), {}, memory))
    assert memory["w"].item() == pytest.approx(3.5) and memory["kept"].item() == 1 and numbers == {"travel": 0.2}


def test_the_servers_control_variate_moves_by_the_cohorts_share():
    """Of 4 sites 2 reply: slopes (1 - 0.4) / 0.2 = 3 and (1 - 1.2) / 0.2 = -1; from c = 0: 2/4 (1 - 0), then
    0.5 + 2/4 (1 - 0.5)."""
    part, sent = load_part("scaffold", {}), {"w": np.array([1.0], np.float32)}
    assert part is not None and part.brief(sent, "a")["w"] == 0
    replies = {
        "a": Reply({"w": np.array([0.4], np.float32)}, {"travel": 0.2}),
        "b": Reply({"w": np.array([1.2], np.float32)}, {"travel": 0.2}),
    }
    for expected in (0.5, 0.75):
        assert part.finish(sent, {"w": np.array([0.8], np.float32)}, replies, 4)["w"] == np.float32(0.8)
        assert part.brief(sent, "a")["w"] == pytest.approx(expected)
    again = load_part("scaffold", {})
    assert again is not None
    again.restore(part.state())
    assert again.brief(sent, "b")["w"] == part.brief(sent, "b")["w"]


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


def test_a_resumed_run_goes_on_with_both_control_variates(tmp_path):
    changes = {"algorithm": "scaffold", "global_rounds": 3, "personal_rounds": -1, "experiment_id": "e"}
    whole = run_tiny(tmp_path / "whole", **changes)

    def stop(message, reply):
        if message.metadata.message_type == "train" and message.content["config"]["round"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "cut", **changes, grid={"spy": stop})
    cut = run_tiny(tmp_path / "cut", resume_from=str(tmp_path / "cut" / "run"), out="", **changes)
    assert same(shared(whole), shared(cut)) and any(np.any(value) for value in shared(cut).values())
    assert private_files(whole) == private_files(cut) and timeless(whole) == timeless(cut)
    kept = [load_file(path) for path in whole.path.rglob("private-*.safetensors")]
    assert kept and all(name.startswith("memory/") for one in kept for name in one)


@pytest.mark.parametrize("change", [{"privacy": "server-fixed"}, {"aggregation": "median"}])
def test_it_is_refused_where_single_replies_are_hidden_or_bounded(change):
    with pytest.raises(ConfigError, match="goes by every single reply"):
        load_config({"algorithm": "scaffold", **change})


def test_no_site_has_a_model_of_its_own():
    assert METHODS["scaffold"].load().personalized is None and not METHODS["scaffold"].personalizes
