import pytest
import torch
from open_clip.model import CLIP

from fedpurel_app.models.image import ImageTower
from fedpurel_app.models.text import LaidOut, Layout, TextTower

VISION = {"image_size": 8, "patch_size": 4, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 60, "width": 48, "layers": 3, "heads": 3}


def reference(quick_gelu=False, vision=VISION, text=TEXT):
    torch.manual_seed(0)
    model = CLIP(24, vision, text, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fresh LayerNorms and biases are trivial: make every weight count
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def lay_out(tower, rows, shared):
    layout = Layout.of([len(row) - shared for row in rows])
    suffixes = tower.embed([token for index in layout.order for token in rows[index][shared:]])
    return LaidOut(tower.embed(rows[0][:shared]), suffixes, layout)


def prompts(shared, lengths, seed=1):
    """Prompts that begin alike; 59, the largest id, is where open_clip looks for the end of the text."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(1, 59, (shared,), generator=generator).tolist()
    return [[*start, *torch.randint(1, 59, (more,), generator=generator).tolist(), 59] for more in lengths]


def padded(rows):
    return torch.tensor([row + [0] * (16 - len(row)) for row in rows])


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize(("shared", "lengths"), [(1, (3, 0, 7, 3, 1)), (5, (2, 2, 10, 1)), (4, (0,)), (1, (14, 14))])
def test_prompts_that_begin_alike_are_encoded_as_open_clip_does(quick_gelu, shared, lengths):
    model, rows = reference(quick_gelu), prompts(shared, lengths)
    tower = TextTower(model.state_dict(), TEXT, quick_gelu)
    assert torch.allclose(tower.encode(lay_out(tower, rows, shared)), model.encode_text(padded(rows)), atol=1e-5)


def test_gradients_of_a_shared_beginning_are_those_of_the_plain_way():
    """The sum over classes of what each padded prompt gives by itself."""
    model, rows, shared = reference(), prompts(4, (2, 5, 1, 2)), 4
    tower = TextTower(model.state_dict(), TEXT)
    cotangent = torch.randn(4, 24, generator=torch.Generator().manual_seed(2))
    laid_out = lay_out(tower, rows, shared)
    prefix = laid_out.prefix.clone().requires_grad_()
    (ours,) = torch.autograd.grad(tower.encode(laid_out._replace(prefix=prefix)), prefix, cotangent)
    embeddings = model.token_embedding(padded(rows)).detach()
    start = laid_out.prefix.clone().requires_grad_()
    x = torch.cat([start.expand(4, -1, -1), embeddings[:, shared:]], 1) + model.positional_embedding
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
    plain = x[torch.arange(4), [len(row) - 1 for row in rows]] @ model.text_projection
    (theirs,) = torch.autograd.grad(plain, start, cotangent)
    assert float((ours - theirs).norm() / theirs.norm()) <= 1e-5


def test_gradients_reach_the_embeddings_and_nothing_else():
    tower = TextTower(reference().state_dict(), TEXT)
    embeddings = tower.embed([5, 59]).requires_grad_()
    tower.encode(LaidOut(tower.embed([1]), embeddings, Layout.of([2]))).sum().backward()
    assert embeddings.grad is not None and float(embeddings.grad.abs().sum()) > 0
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_prompts_that_are_too_long_are_refused():
    tower = TextTower(reference().state_dict(), TEXT)
    with pytest.raises(ValueError, match="has 17 tokens; this text tower takes 16"):
        tower.encode(LaidOut(torch.zeros(1, 48), torch.zeros(16, 48), Layout.of([16])))


def test_a_missing_weight_is_an_error():
    weights = reference().state_dict()
    del weights["transformer.resblocks.1.mlp.c_fc.bias"]
    with pytest.raises(RuntimeError, match=r"1\.up\.bias"):
        TextTower(weights, TEXT)


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pool_type": "avg"},
        {"pool_type": "avg", "final_ln_after_pool": True},
        {"no_ln_pre": True},
        {"mlp_ratio": 3.0},
        {"norm_kwargs": {"eps": 1e-3}},
        {"act_kwargs": {"approximate": "tanh"}},
    ],
)
def test_images_are_encoded_as_open_clip_does(quick_gelu, change):
    if quick_gelu and "act_kwargs" in change:
        return  # open_clip has no such model
    model = reference(quick_gelu, VISION | change)
    tower = ImageTower(model.state_dict(), VISION | change, quick_gelu)
    assert not ImageTower.unsupported(VISION | change)
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(tower(images), model.encode_image(images), atol=1e-5)


@pytest.mark.parametrize("change", [{}, {"pool_type": "avg"}, {"no_ln_pre": True}])
def test_patches_are_the_other_tokens_of_open_clip_put_through_the_same_norm_and_projection(change):
    model = reference(vision=VISION | change)
    tower, visual = ImageTower(model.state_dict(), VISION | change), model.visual
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    features, patches = tower.with_patches(images)
    expected = visual.ln_post(visual.transformer(visual._embeds(images)))[:, 1:] @ visual.proj
    assert patches.shape == (3, 4, 24) and torch.allclose(patches, expected, atol=1e-5)
    assert torch.equal(features, tower(images))
    if change.get("pool_type") == "avg":
        assert torch.allclose(patches.mean(1), features, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
def test_learned_tokens_enter_behind_the_class_token(depth):
    model = reference()
    tower, visual = ImageTower(model.state_dict(), VISION), model.visual
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    tokens = torch.randn(depth, 2, 32, generator=torch.Generator().manual_seed(2))
    x = visual._embeds(images)
    for index, block in enumerate(visual.transformer.resblocks):
        if index < depth:
            x = torch.cat([x[:, :1], tokens[index].expand(3, -1, -1), x[:, 1 if index == 0 else 3 :]], 1)
        x = block(x)
    expected = visual.ln_post(x[:, 0]) @ visual.proj
    assert torch.allclose(tower(images, tokens), expected, atol=1e-5)
    assert not torch.allclose(tower(images), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"layers": [3, 4, 6, 3]}, "ResNet"),
        ({"timm_model_name": "convnext_base"}, "timm_model_name"),
        ({"attentional_pool": True}, "attentional_pool"),
        ({"qk_norm": True}, "qk_norm"),
        ({"ls_init_value": 1e-4}, "ls_init_value"),
    ],
)
def test_other_forms_of_towers_are_named(config, named):
    assert any(named in word for word in ImageTower.unsupported(VISION | config))
