"""What must hold on a GPU; run with ``pytest -m gpu``."""

from typing import Any

import pytest
import torch

from fedpurel_app.algorithms.base import Batch, Facts
from fedpurel_app.algorithms.fedpurel import global_step
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.functional import match_temperature
from fedpurel_app.functional.temperature import entropy_range
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.peft.base import Host, parameters_of
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.training.inputs import LocalData
from fedpurel_app.training.local import train
from tests.functional.test_temperature import exact_entropy, families
from tests.support import run_tiny

DEFAULTS = {field.alias: field.default for field in RunConfig.model_fields.values()}
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def trained(name, device):
    demo = load_backbone("demo", torch.device(device))
    names = ("red circle", "blue star", "green heart")
    prompts = tuple(f"a photo of a {one}." for one in names)
    host = Host(demo.encode_prompts(prompts), demo.logit_scale, names, demo, prompts)
    options = {key: DEFAULTS[key] for key in FAMILIES[name].keys}
    if name == "lora":
        options["lora-dropout"] = 0.0  # a GPU draws other masks than a CPU
    module = make_module(FAMILIES[name], host, "global", options, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (96, 3, 32, 32), generator=generator, dtype=torch.uint8).to(device)
    with torch.no_grad():
        features = demo.encode_pixels(pixels)
    labels = (torch.arange(96) % 3).to(device)
    inputs = pixels if module.takes == "pixels" else features
    data = LocalData(inputs, labels, host.zero_shot_logits(features))
    settings, order = SgdSettings(0.01, 0.9, 5e-4, 32, 1), torch.Generator().manual_seed(2)
    metrics = train(module, data, global_step, settings, order, METHODS["fedpurel"].defaults())
    return {key: value.cpu() for key, value in parameters_of(module).items()}, metrics


@pytest.mark.parametrize("name", FAMILIES)
def test_training_on_a_gpu_gives_what_the_cpu_gives(name):
    (cpu, cpu_metrics), (gpu, gpu_metrics) = trained(name, "cpu"), trained(name, "cuda")
    for key in cpu:
        assert torch.allclose(cpu[key], gpu[key], atol=1e-3, rtol=1e-3)
    assert gpu_metrics["loss"] == pytest.approx(cpu_metrics["loss"], rel=1e-3)


def test_temperatures_are_matched_on_a_gpu():
    for _, rows in families(100):
        low, high = entropy_range(rows)
        found = match_temperature(rows.cuda(), ((low + high) / 2).cuda()).cpu()
        error = (exact_entropy(rows, found) - (low + high).double() / 2).abs()[low <= high]
        assert not len(error) or error.max() <= 2e-5


def test_a_step_never_waits_for_the_gpu():
    """The loop over batches may not copy to the host: torch raises where it would."""
    trained("prompt", "cuda")  # first use of the device synchronises
    torch.cuda.synchronize()
    rows = torch.randn(64, 100, device="cuda")
    weight = torch.nn.Parameter(torch.randn(8, 100, device="cuda"))
    inputs, labels = torch.randn(64, 8, device="cuda"), torch.zeros(64, dtype=torch.long, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        options = METHODS["fedpurel"].defaults()
        output = inputs @ weight
        unread: Any = None  # the module, which this rule does not read
        global_step(
            Batch(inputs, labels, output, rows, unread, [weight], [weight], Facts(), options, 0.1, torch.Generator())
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_whole_run_on_a_gpu(tmp_path):
    assert run_tiny(tmp_path, device="cuda").summary()["outcome"] == "completed"
