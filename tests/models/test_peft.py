import pytest
import torch
from torch.nn import functional

from fedpurel_app.errors import ConfigError
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.peft import FAMILIES, Host, load_parameters, parameters_of

OPTIONS = {"context-length": 4, "residual-scale": 0.5}
NAMES = ("red circle", "blue star", "green crescent", "purple_heart")
SHAPES = {
    "prompt": {"context": (4, 128)},
    "adapter": {"weight1": (128, 128), "bias1": (128,), "weight2": (128, 128), "bias2": (128,)},
    "text-residual": {"residual": (4, 128)},
}
families = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def host():
    demo = load_backbone("demo", torch.device("cpu"))
    text = demo.encode_prompts([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    return Host(text, demo.logit_scale, NAMES, demo)


def build(name, host, seed=0):
    return FAMILIES[name].build(host, OPTIONS, torch.Generator().manual_seed(seed))


def images(seed=0):
    return 3 * torch.randn(6, 128, generator=torch.Generator().manual_seed(seed))


@families
def test_parameters_have_the_published_shapes(name, host):
    assert {key: tuple(value.shape) for key, value in parameters_of(build(name, host)).items()} == SHAPES[name]


@families
def test_only_the_parameters_are_trained(name, host):
    module = build(name, host)
    module.logits(images()).square().sum().backward()
    assert all(value.grad is not None and float(value.grad.abs().sum()) > 0 for _, value in module.named_parameters())
    assert not any(value.requires_grad for value in host.backbone.text.parameters())


@families
def test_class_features_may_be_computed_once(name, host):
    module = build(name, host)
    assert torch.equal(module.logits(images()), module.logits(images(), module.class_features()))


@families
def test_one_seed_gives_one_module(name, host):
    first, again, other = (parameters_of(build(name, host, seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    if name != "text-residual":  # whose residual is zero at first
        assert not any(torch.equal(first[key], other[key]) for key in first)


@families
def test_parameters_survive_a_round_trip(name, host):
    source, target = build(name, host, 0), build(name, host, 1)
    with torch.no_grad():
        for _, value in source.named_parameters():
            value.add_(0.1)
    load_parameters(target, parameters_of(source))
    assert torch.equal(source.logits(images()), target.logits(images()))


@families
def test_parameters_that_do_not_fit_change_nothing(name, host):
    module = build(name, host)
    before = {key: value.clone() for key, value in parameters_of(module).items()}
    first, *rest = before
    wrong = {key: before[key] + 1 for key in rest} | {first: torch.zeros(9, 9), "other": torch.zeros(1)}
    with pytest.raises(ValueError, match=rf"unknown: other; {first} has shape \(9, 9\)"):
        load_parameters(module, wrong)
    assert all(torch.equal(before[key], value) for key, value in parameters_of(module).items())


@families
def test_what_a_family_says_of_towers_is_true(name, host):
    """Text features depend on the parameters exactly when the text tower (or its output) is not left as it is."""
    module = build(name, host)
    before = module.class_features().detach().clone()
    with torch.no_grad():
        for _, value in module.named_parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    changed = not torch.equal(before, module.class_features())
    assert changed == (name != "adapter")


@families
def test_a_family_that_claims_to_need_no_text_tower_is_built_where_there_is_none(name, host):
    bare = Host(host.zero_shot_text, host.logit_scale, host.class_names, None)
    if FAMILIES[name].needs_text_tower:
        with pytest.raises(ConfigError, match="needs a text tower"):
            build(name, bare)
    else:
        images = torch.ones(2, bare.zero_shot_text.shape[1])
        assert build(name, bare).logits(images).isfinite().all()


def test_a_context_that_does_not_fit_says_what_does(host):
    with pytest.raises(ConfigError, match=r"context-length = 60: .* use at most (\d+)") as caught:
        FAMILIES["prompt"].build(host, OPTIONS | {"context-length": 60}, torch.Generator())
    most = int(str(caught.value).rstrip(".").split()[-1])
    FAMILIES["prompt"].build(host, OPTIONS | {"context-length": most}, torch.Generator())
    with pytest.raises(ConfigError):
        FAMILIES["prompt"].build(host, OPTIONS | {"context-length": most + 1}, torch.Generator())


def test_a_prompt_of_the_templates_own_words_is_zero_shot(host):
    module = build("prompt", host)
    words = torch.tensor([host.backbone.tokenizer.encode("a photo of a")])
    load_parameters(module, {"context": host.backbone.text.embed(words)[0]})
    assert torch.allclose(module.logits(images()), host.zero_shot_logits(images()), atol=1e-4)


def test_a_zero_residual_is_zero_shot(host):
    assert torch.allclose(build("text-residual", host).logits(images()), host.zero_shot_logits(images()), atol=1e-5)


def test_text_residual_by_hand(host):
    module = build("text-residual", host)
    load_parameters(module, {"residual": host.zero_shot_text.flip(0)})
    expected = functional.normalize(host.zero_shot_text + 0.5 * host.zero_shot_text.flip(0), dim=-1)
    assert torch.allclose(module.class_features(), expected, atol=1e-6)


def test_adapter_by_hand(host):
    """The attention acts on the feature before normalisation: scaling the feature changes tanh, and so the logits."""
    module, x = build("adapter", host), images()
    state = parameters_of(module)
    hidden = torch.tanh(x @ state["weight1"].T + state["bias1"])
    attention = (hidden @ state["weight2"].T + state["bias2"]).softmax(-1)
    expected = host.logit_scale * functional.normalize(attention * x, dim=-1) @ host.zero_shot_text.T
    assert torch.allclose(module.logits(x), expected, atol=1e-4)
    assert not torch.allclose(module.logits(x), module.logits(0.1 * x), atol=1e-2)
