"""FedPGP by hand: the adapted matrix, the contrast, and what it is with nothing adapted."""

import pytest
import torch
from torch.nn import functional

from fedpurel_app.algorithms.base import Models
from fedpurel_app.algorithms.fedpgp import ALGORITHM, contrasted_step
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.models.peft.low_rank import LowRank
from tests.algorithms.test_methods import HOST, INPUTS, TEXT, a_batch, autograd, task_loss, text_module
from tests.support import run_tiny


def adapted(shift=0.5, rank=1):
    return LowRank(text_module(shift), rank, torch.Generator().manual_seed(0))


def test_the_site_s_model_is_that_of_sigma_and_a_product_of_low_rank():
    """T + 0.5 (sigma + U V), each row scaled to length 1."""
    module = adapted()
    sigma, u, v = (value.detach() for _, value in module.named_parameters())
    assert u.shape == (3, 1) and v.shape == (1, 2)
    text = functional.normalize(TEXT + 0.5 * (sigma + u @ v), dim=-1)
    images = functional.normalize(INPUTS, dim=-1)
    assert torch.allclose(module.class_features(), text, atol=1e-6)
    assert torch.allclose(module.logits(INPUTS), HOST.logit_scale * images @ text.T, atol=1e-5)
    assert torch.equal(module.frozen()(INPUTS), module.logits(INPUTS))
    assert dict(adapted(rank=8).named_parameters())["own.U"].shape == (3, 8), "b is what was asked for"


def test_the_step_adds_the_contrast():
    """Two features at cosines a and r: -log(exp(a / 0.5) / (exp(a / 0.5) + exp(r / 0.5))), mean over classes."""
    module = adapted()
    batch = a_batch(module, "fedpgp", contrast_weight=0.7)
    found, metrics = contrasted_step(batch)
    shared, own = module.shared.class_features(), module.class_features()
    near, far = (functional.cosine_similarity(shared, other) / 0.5 for other in (TEXT, own))
    contrast = -torch.log(near.exp() / (near.exp() + far.exp())).mean()
    for one, expected in zip(found, autograd(module, task_loss(module) + 0.7 * contrast), strict=True):
        assert torch.allclose(one, expected, atol=1e-6)
    assert metrics["align-loss"].item() == pytest.approx(contrast.item(), abs=1e-6)


def test_with_nothing_adapted_it_is_the_shared_module():
    module, plain = adapted(), text_module(0.5)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.mul_(name == "shared.residual")
    assert torch.equal(module.logits(INPUTS), plain.logits(INPUTS))
    found, _ = contrasted_step(a_batch(module, "fedpgp", contrast_weight=0.0))
    assert torch.allclose(found[0], autograd(plain, task_loss(plain))[0], atol=1e-6)
    assert not found[1].any() and not found[2].any(), "and stays it: U and V pull each other"
    assert ALGORITHM.global_model(Models(module)) == (module.shared,)


def test_a_run_has_a_global_model_and_one_for_each_site_that_trained(tmp_path):
    folder = run_tiny(tmp_path, algorithm="fedpgp", personal_rounds=-1, learning_rate=0.5)
    site = min(folder.read_checkpoint()[1]["private_rounds"])
    assert set(folder.read_checkpoint()[0]) == {"shared.residual"}
    shared, own = load_trained(folder.path), load_trained(folder.path, site)
    assert not torch.equal(*(model.logits(torch.eye(8)[:4]) for model in (shared, own)))
    assert folder.summary()["personalized"] is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"peft": "adapter"}, "works on the text features"),
        ({"peft": "lora"}, "works on the text features"),
        ({"class-specific-context": True}, "one context for all classes"),
    ],
)
def test_it_is_refused_where_there_is_not_one_matrix(change, reason):
    with pytest.raises(ConfigError, match=reason):
        load_config({"algorithm": "fedpgp", **change})
