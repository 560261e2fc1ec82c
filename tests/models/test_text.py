import pytest
import torch
from open_clip.model import CLIP

from fedpurel_app.models.backbone import pad_tokens
from fedpurel_app.models.text import TextTower

VISION = {"image_size": 8, "patch_size": 4, "width": 32, "layers": 1, "head_width": 32}


def reference(quick_gelu=False, layers=3, width=48, heads=3):
    torch.manual_seed(0)
    text = {"context_length": 16, "vocab_size": 60, "width": width, "layers": layers, "heads": heads}
    model = CLIP(24, VISION, text, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fresh LayerNorms and biases are trivial: make every weight count
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, TextTower(model.state_dict(), heads, quick_gelu)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_equals_open_clip_at_full_length(quick_gelu):
    model, tower = reference(quick_gelu)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 58, (5, 16), generator=generator)
    ends = torch.tensor([15, 3, 7, 1, 9])
    tokens[torch.arange(5), ends] = 59  # the largest id: where open_clip looks for the end of the text
    ours = tower.encode(tower.embed(tokens), ends)
    assert torch.allclose(ours, model.encode_text(tokens), atol=1e-5)


def test_positions_behind_the_longest_prompt_may_be_cut():
    model, tower = reference()
    rows = [[1, 5, 6, 59], [1, 5, 59]]
    tokens, ends = pad_tokens(rows, torch.device("cpu"))
    padded = torch.nn.functional.pad(tokens, (0, 16 - tokens.shape[1]))
    assert tokens.shape == (2, 4)
    assert torch.allclose(tower.encode(tower.embed(tokens), ends), model.encode_text(padded), atol=1e-5)


def test_gradients_reach_the_embeddings_and_nothing_else():
    _, tower = reference()
    embeddings = tower.embed(torch.tensor([[1, 5, 59]])).requires_grad_()
    tower.encode(embeddings, torch.tensor([2])).sum().backward()
    assert embeddings.grad is not None and float(embeddings.grad.abs().sum()) > 0
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_prompts_that_are_too_long_are_refused():
    _, tower = reference()
    with pytest.raises(ValueError, match="has 17 tokens; this text tower takes 16"):
        tower.encode(torch.zeros(1, 17, 48), torch.tensor([16]))


def test_a_missing_weight_is_an_error():
    model, _ = reference()
    weights = model.state_dict()
    del weights["transformer.resblocks.1.mlp.c_fc.bias"]
    with pytest.raises(RuntimeError, match="blocks.1.up.bias"):
        TextTower(weights, 3)
