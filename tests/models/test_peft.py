import pytest
import torch
from torch.nn import functional

from fedpurel_app.config import RunConfig
from fedpurel_app.config.model import key_of
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.image import ImageTower
from fedpurel_app.models.peft.base import Host, load_parameters, parameters_of
from fedpurel_app.models.peft.elsewhere import frozen_at
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.registry import FAMILIES

OPTIONS = {
    key: field.default
    for key, field in ((key_of(name), field) for name, field in RunConfig.model_fields.items())
    if any(key in family.keys for family in FAMILIES.values())
}
NAMES = ("red circle", "blue star", "green crescent", "purple_heart")
PROJECTIONS = [f"vision.blocks.{block}.attention.{part}" for block in range(5) for part in "qkv"]
SHAPES = {
    "prompt": {"context": (4, 128)},
    "adapter": {"weight1": (128, 128), "bias1": (128,), "weight2": (128, 128), "bias2": (128,)},
    "text-residual": {"residual": (4, 128)},
    "lora": {f"{name}.A": (8, 128) for name in PROJECTIONS} | {f"{name}.B": (128, 8) for name in PROJECTIONS},
    "visual-prompt": {"tokens": (5, 8, 128)},
}
families = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def host():
    demo = load_backbone("demo", torch.device("cpu"))
    prompts = tuple(f"a photo of a {name.replace('_', ' ')}." for name in NAMES)
    return Host(demo.encode_prompts(prompts), demo.logit_scale, NAMES, demo, prompts)


def build(name, host, seed=0, role="global", **options):
    changed = OPTIONS | {key.replace("_", "-"): value for key, value in options.items()}
    return make_module(FAMILIES[name], host, role, changed, torch.Generator().manual_seed(seed))


def images(seed=0):
    return 3 * torch.randn(6, 128, generator=torch.Generator().manual_seed(seed))


def pixels(seed=0):
    return torch.randint(256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def inputs_of(module):
    return pixels() if module.takes == "pixels" else images()


def shake(module, scale=1.0, seed=3):
    """Move all parameters off their special initial values."""
    with torch.no_grad():
        for _, value in module.named_parameters():
            value.add_(scale * torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)))


@families
def test_parameters_have_the_published_shapes(name, host):
    if name not in SHAPES:
        pytest.skip(f"no shapes of {name} are published")
    assert {key: tuple(value.shape) for key, value in parameters_of(build(name, host)).items()} == SHAPES[name]


@families
def test_only_the_parameters_are_trained(name, host):
    module = build(name, host)
    shake(module, 0.1)
    module.logits(inputs_of(module)).square().sum().backward()
    assert all(value.grad is not None and float(value.grad.abs().sum()) > 0 for _, value in module.named_parameters())
    towers = (host.backbone.text, host.backbone.image)
    assert not any(value.requires_grad for tower in towers for value in tower.parameters())


@families
def test_the_frozen_function_gives_the_same_logits(name, host):
    module = build(name, host)
    shake(module, 0.1)
    expected = module.logits(inputs_of(module)).detach()
    assert torch.allclose(module.frozen()(inputs_of(module)), expected, atol=1e-4)


@families
def test_logits_at_other_parameters_are_those_of_a_module_that_has_them(name, host):
    """And the module, and a graph that was made of it before, are as they were; dropout has no part in them."""
    options = {"lora_dropout": 0.5} if name == "lora" else {}
    module, other = (build(name, host, seed, **options) for seed in (0, 1))
    shake(other, 0.1)
    before = {key: value.clone() for key, value in parameters_of(module).items()}
    inputs, (_, trained) = inputs_of(module), zip(*module.named_parameters(), strict=True)
    expected = torch.autograd.grad(module.logits(inputs).square().sum(), trained)
    loss = module.logits(inputs).square().sum()
    found = frozen_at(module, parameters_of(other))(inputs)
    assert torch.equal(found, other.logits(inputs)) and not found.requires_grad
    assert all(torch.equal(before[key], value) for key, value in parameters_of(module).items())
    assert all(map(torch.equal, torch.autograd.grad(loss, trained), expected))


@families
def test_a_branch_leaves_the_backbone_and_other_branches_as_they_are(name, host):
    before, first = host.backbone.encode_pixels(pixels()), build(name, host, 0)
    logits = first.logits(inputs_of(first)).detach()
    shake(build(name, host, 1, "private"))
    assert torch.equal(first.logits(inputs_of(first)), logits)
    assert torch.equal(host.backbone.encode_pixels(pixels()), before)


@families
def test_one_seed_gives_one_module(name, host):
    first, again, other = (parameters_of(build(name, host, seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key, value in first.items() if value.any()]  # a residual, or LoRA's B, is zero at first
    assert not any(torch.equal(first[key], other[key]) for key in drawn)
    assert drawn or torch.equal(build(name, host).logits(images()), host.zero_shot_logits(images())), "starts there"


@families
def test_parameters_survive_a_round_trip(name, host):
    source, target = build(name, host, 0), build(name, host, 1)
    shake(source, 0.1)
    load_parameters(target, parameters_of(source))
    assert torch.equal(source.logits(inputs_of(source)), target.logits(inputs_of(source)))


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
    shake(module)
    assert torch.equal(before, module.class_features()) == ("text" not in FAMILIES[name].changed(OPTIONS))
    assert module.takes == ("pixels" if FAMILIES[name].needs == "image tower" else "features")


@families
def test_a_family_that_claims_to_need_no_text_tower_is_built_where_there_is_none(name, host):
    bare = Host(host.zero_shot_text, host.logit_scale, host.class_names, None)
    if FAMILIES[name].needs != "features":
        with pytest.raises(ConfigError, match=f'peft = "{name}" needs the towers'):
            build(name, bare)
    else:
        images = torch.ones(2, bare.zero_shot_text.shape[1])
        assert build(name, bare).logits(images).isfinite().all()


def test_a_context_that_does_not_fit_says_what_does(host):
    with pytest.raises(ConfigError, match=r"context-length = 60: .* use at most (\d+)") as caught:
        build("prompt", host, context_length=60)
    most = int(str(caught.value).rstrip(".").split()[-1])
    build("prompt", host, context_length=most)
    with pytest.raises(ConfigError):
        build("prompt", host, context_length=most + 1)


@pytest.mark.parametrize("class_specific", [False, True])
def test_a_prompt_of_the_templates_own_words_is_zero_shot(host, class_specific):
    module = build("prompt", host, context_words="a photo of a", class_specific_context=class_specific)
    assert torch.allclose(module.logits(images()), host.zero_shot_logits(images()), atol=1e-4)


@pytest.mark.parametrize(
    ("position", "prompt"), [("end", "a photo of {}."), ("middle", "a {} photo of."), ("front", "{} a photo of.")]
)
@pytest.mark.parametrize("class_specific", [False, True])
def test_the_class_name_stands_where_it_should(host, position, prompt, class_specific):
    module = build(
        "prompt",
        host,
        context_words="a photo of",
        context_length=3,
        context_position=position,
        class_specific_context=class_specific,
    )
    expected = host.backbone.encode_prompts([prompt.format(name.replace("_", " ")) for name in NAMES])
    assert torch.allclose(module.class_features(), expected, atol=1e-5)
    assert module.context.shape == ((4, 3, 128) if class_specific else (3, 128))


def test_a_class_specific_context_moves_its_own_class_alone(host):
    module = build("prompt", host, class_specific_context=True)
    before = module.class_features().detach()
    with torch.no_grad():
        module.context[2] += torch.randn(4, 128, generator=torch.Generator().manual_seed(1))
    changed = (module.class_features() - before).abs().amax(1) > 1e-4
    assert changed.tolist() == [False, False, True, False]


def test_initial_words_must_fill_the_context(host):
    with pytest.raises(ConfigError, match='context-words = "a photo of" has 3 tokens, and context-length = 4: set'):
        build("prompt", host, context_words="a photo of")


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


def test_lora_starts_as_zero_shot_and_learned_tokens_do_not(host):
    zero_shot = host.backbone.encode_pixels(pixels())
    assert torch.allclose(build("lora", host).image_features(pixels()), zero_shot, atol=1e-5)
    assert not torch.allclose(build("visual-prompt", host).image_features(pixels()), zero_shot, atol=1e-3)


def test_lora_by_hand(host):
    """The update of one projection is (alpha / sqrt(r)) B A, merged into a second tower's weights."""
    module = build("lora", host, lora_rank=4, lora_alpha=6.0, lora_blocks="2", lora_projections="v")
    shake(module, 0.1)
    state = parameters_of(module)
    assert set(state) == {"vision.blocks.2.attention.v.A", "vision.blocks.2.attention.v.B"}
    weights = host.backbone.checkpoint.load("visual.")
    fused = weights["visual.transformer.resblocks.2.attn.in_proj_weight"]
    width = fused.shape[1]
    a, b = state["vision.blocks.2.attention.v.A"], state["vision.blocks.2.attention.v.B"]
    fused[2 * width :] += 6 / 2 * b @ a
    tower = ImageTower(weights, host.backbone.checkpoint.architecture["vision_cfg"])
    expected = host.backbone.encode_pixels(pixels(), tower)
    assert torch.allclose(module.image_features(pixels()), expected, atol=1e-4)
    assert not torch.allclose(expected, host.backbone.encode_pixels(pixels()), atol=1e-2)


@pytest.mark.parametrize(("tower", "takes", "text_moves"), [("text", "features", True), ("both", "pixels", True)])
def test_lora_of_the_text_tower(host, tower, takes, text_moves):
    module = build("lora", host, lora_tower=tower)
    assert torch.allclose(module.class_features(), host.zero_shot_text, atol=1e-5)
    shake(module, 0.1)
    assert module.takes == takes
    assert torch.allclose(module.class_features(), host.zero_shot_text, atol=1e-3) != text_moves
    assert torch.allclose(module.frozen()(inputs_of(module)), module.logits(inputs_of(module)), atol=1e-4)


def test_dropout_is_for_training_alone_and_seeded(host):
    module = build("lora", host, lora_dropout=0.5)
    shake(module, 0.3)
    at_rest = module.logits(pixels()).detach()
    assert torch.equal(module.logits(pixels()), at_rest)
    module.train()
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(module.logits(pixels()).detach())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    module.train(False)
    assert torch.equal(module.logits(pixels()), at_rest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_blocks": "4-7"}, 'lora-blocks = "4-7": give "all", or numbers .* this tower has blocks 0 to 4'),
        ({"lora_blocks": "first"}, 'lora-blocks = "first"'),
        ({"lora_projections": "q,key"}, 'lora-projections = "q,key": key is none of q, k, v, out'),
    ],
)
def test_adapters_that_have_no_place_are_refused(host, options, message):
    with pytest.raises(ConfigError, match=message):
        build("lora", host, **options)


def test_building_draws_nothing_from_the_global_generator(host):
    before = torch.get_rng_state()
    for name in FAMILIES:
        build(name, host)
    assert torch.equal(torch.get_rng_state(), before)
