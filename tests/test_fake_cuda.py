"""Every tensor path of a client on "cuda", without a GPU: shapes, types and devices, and no wait for the device.

torch's FakeTensorMode computes what an operation would give, and where. A tensor on the wrong device is an error in it,
and so is whatever needs a value: ``item``, ``float``, ``numpy``.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from fedpurel_app.algorithms.base import Facts, Models
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.functional import tkl
from fedpurel_app.models import backbone as backbones
from fedpurel_app.models.backbone import Backbone, load_backbone
from fedpurel_app.models.checkpoints import Checkpoint
from fedpurel_app.models.peft.base import Branch, Host, parameters_of
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.pareto import family_part
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.training.inputs import LocalData, all_logits
from fedpurel_app.training.local import take_steps

DEFAULTS = RunConfig().model_dump(by_alias=True)
NAMES = ("red circle", "blue star", "green heart")
PROMPTS = tuple(f"a photo of a {name}." for name in NAMES)
GPU = torch.device("cuda")
pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA is not available.*:UserWarning")


@pytest.fixture(scope="module")
def weights():
    """All tensors of the demo CLIP, read outside the mode."""
    checkpoint = load_backbone("demo", torch.device("cpu")).checkpoint
    return checkpoint, {name: value.clone() for name, value in checkpoint.load("").items()}


def moved(module, *where, **how):
    """Stand in for ``Module.to``, which swaps tensors in place: fake ones cannot be."""
    if GPU in where or how.get("device") == GPU or any(getattr(one, "type", "") == "cuda" for one in where):
        for one in module.modules():
            for name, value in one._parameters.items():
                if value is not None and value.device.type != "cuda":
                    one._parameters[name] = torch.nn.Parameter(value.detach().to(GPU), value.requires_grad)
            one._buffers |= {name: value.to(GPU) for name, value in one._buffers.items() if value is not None}
    return module


def walks_back():
    """Tell whether autograd's engine runs here: a build for CUDA asks the driver for a device, fake or not."""
    with FakeTensorMode():
        weight = torch.nn.Parameter(torch.empty(2, device=GPU))
        try:
            torch.autograd.grad(weight.sum(), [weight])
        except RuntimeError:
            return False
    return True


def same_form(outputs, inputs, grad_outputs=None, **_):
    """Stand in for autograd's engine, whose formulas are torch's own: ours is what goes in."""
    assert grad_outputs is None or (grad_outputs.shape, grad_outputs.dtype, grad_outputs.device) == (
        outputs.shape,
        outputs.dtype,
        outputs.device,
    )
    assert outputs.requires_grad
    return [torch.zeros_like(value) for value in inputs]


@pytest.fixture
def mode(monkeypatch, weights):
    _, known = weights
    mode = FakeTensorMode()

    def load(self, prefix="", other_than=None):
        chosen = {name for name in known if not other_than or not name.startswith(other_than)}
        with mode:  # at once on the device: as on a real one after Module.to
            return {
                name: mode.from_tensor(value).to(GPU)
                for name, value in known.items()
                if name in chosen and name.startswith(prefix)
            }

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    if not walks_back():
        monkeypatch.setattr(torch.autograd, "grad", same_form)
    monkeypatch.setattr(Checkpoint, "load", load)
    monkeypatch.setattr(Backbone, "logit_scale", 20.0)  # a number that a file holds
    return mode


def host(precision, weights):
    checkpoint, _ = weights
    clip = backbones.Backbone("demo", checkpoint, GPU, precision)
    return Host(clip.encode_prompts(PROMPTS), 20.0, NAMES, clip, PROMPTS)


def data(one, takes):
    features = torch.randn(12, one.zero_shot_text.shape[1], device=GPU)
    inputs = {
        "features": features,
        "pixels": torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8, device=GPU),
        "patches": torch.randn(12, 5, features.shape[1], dtype=torch.float16, device=GPU),
    }[takes]
    return LocalData(inputs, torch.randint(3, (12,), device=GPU), one.zero_shot_logits(features))


def facts(one):
    counts = torch.randint(1, 9, (3,), device=GPU)
    return Facts(counts, counts, one.zero_shot_text)


def visit(method, settings, module, images, phase, anchor, one, memory=None):
    rule = method.load().visits[phase]
    order = torch.Generator().manual_seed(0)
    totals, steps = take_steps(
        module, images, rule, SgdSettings(0.1, 0.9, 1e-4, 4, 2), order, method.defaults(), facts(one), anchor, memory
    )
    assert steps == 6 and all(value.device.type == "cuda" for value in totals.values())
    assert all(
        isinstance(value, FakeTensor) and value.device.type == "cuda" for value in parameters_of(module).values()
    )


CASES = [
    (name, family, precision)
    for name, method in METHODS.items()
    for family in FAMILIES
    for precision in ("fp32", "bf16", "fp16-autocast")
    if method.trains
    and not method.unfit({**DEFAULTS, "algorithm": name, "peft": family})
    # The towers' precision is of no use to the rules, nor to families outside the towers.
    and (precision == "fp32" or (FAMILIES[family].needs != "features" and name in ("fedpurel", "promptfolio")))
]
# A fake operation takes as long as a real one of much data, and towers have many. At once run: every method with its
# first family beside the towers, a prompt through the text tower in half precision, and one through the image tower.
FIRST = {case[0]: case for case in reversed(CASES) if FAMILIES[case[1]].needs == "features"}
QUICK = {*FIRST.values(), ("promptfolio", "prompt", "bf16"), ("fedavg", "visual-prompt", "fp32")}


@pytest.mark.parametrize(
    ("name", "family", "precision"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_both_phases_and_prediction_stay_on_the_device(mode, weights, name, family, precision):
    method, settings = METHODS[name], {**DEFAULTS, "algorithm": name, "peft": family}
    algorithm = method.load()
    with mode:
        one = host(precision, weights)

        def build(role, **options):
            if role == "zero-shot":
                return Branch(one)
            chosen = settings | {name.replace("_", "-"): value for name, value in options.items()}
            return make_module(FAMILIES[family], one, role, chosen, torch.Generator().manual_seed(0))

        shared = algorithm.compose(build, method.defaults(), torch.Generator().manual_seed(1))
        images = data(one, shared.takes)
        visit(method, settings, shared, images, Phase.GLOBAL, None, one)
        models = Models(shared)
        if algorithm.has_personal_rounds:
            private = algorithm.private(build, method.defaults(), torch.Generator().manual_seed(2))
            against, memory = images.measured_against(shared.frozen()), dict[str, torch.Tensor]()
            anchor = parameters_of(shared) if family_part(private) is private else None
            visit(method, settings, private, against, Phase.PERSONAL, anchor, one, memory)
            models = Models(shared, private, memory)
        for model in (algorithm.global_model, algorithm.personalized or algorithm.global_model):
            logits = torch.stack([all_logits(part.frozen(), images.inputs) for part in model(models)]).sum(0)
            assert logits.shape == (12, 3) and logits.device.type == "cuda" and logits.dtype == torch.float32
            assert tkl(logits, images.reference_logits).device.type == "cuda"
            for part in model(models):  # what an export writes
                assert part.class_features().device.type == "cuda"


def test_a_rule_that_needs_a_value_or_another_device_is_seen(mode, weights):
    """Or the test above would pass whatever a rule does."""

    def waits(batch):
        return ([value * float(batch.logits.sum()) for value in batch.trained], {})

    def strays(batch):
        return ([value + torch.ones(value.shape) for value in batch.trained], {})

    for rule, error in ((waits, DataDependentOutputException), (strays, RuntimeError)):
        with mode, pytest.raises(error):
            one = host("fp32", weights)
            module = make_module(FAMILIES["text-residual"], one, "global", DEFAULTS, torch.Generator())
            images, order = data(one, "features"), torch.Generator()
            take_steps(module, images, rule, SgdSettings(0.1, 0, 0, 4, 1), order, {}, Facts(), None)
