from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image

from fedpurel_app.core.errors import StateError
from fedpurel_app.data.shapes import shapes
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.tokenizers import WordTokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def demo():
    return load_backbone("demo", CPU)


def test_demo_sees_what_is_named(demo):
    """Zero-shot on the easy rendering, where the demo CLIP was trained: far above the chance of 2 %."""
    classes = range(0, 48, 3)
    pictures = np.concatenate([shapes.images("validation", label, 0, 10, shapes.EASY) for label in classes])
    features = demo.encode_images([Image.fromarray(picture) for picture in pictures])
    text = demo.encode_prompts([f"a photo of a {name}." for name in shapes.CLASS_NAMES])
    found = (torch.nn.functional.normalize(features, dim=-1) @ text.T).argmax(1)
    assert (found == torch.tensor([label for label in classes for _ in range(10)])).float().mean() > 0.6


def test_text_features_are_normalised(demo):
    assert torch.allclose(demo.encode_prompts(["a photo of a red circle."]).norm(dim=-1), torch.ones(1))


def test_the_towers_agree_with_open_clip(demo):
    from open_clip.model import CLIP
    from safetensors.torch import load_file

    model = CLIP(**demo.checkpoint.architecture).eval()
    model.load_state_dict({name: value.float() for name, value in load_file(demo.checkpoint.path).items()})
    image = Image.fromarray(shapes.images("test", 0, 0, 1)[0])
    with torch.no_grad():
        pixels = demo.normalise(demo.preprocess(image)[None])
        assert torch.allclose(demo.encode_images([image]), model.encode_image(pixels), atol=1e-5)
        tokens = [demo.tokenizer.start, *demo.tokenizer.encode_all(["a photo of a red circle."])[0], demo.tokenizer.end]
        tokens += [0] * (model.context_length - len(tokens))
        theirs = torch.nn.functional.normalize(model.encode_text(torch.tensor([tokens])), dim=-1)
    assert torch.allclose(demo.encode_prompts(["a photo of a red circle."]), theirs, atol=1e-5)


def test_unknown_words_are_stood_in_for(demo):
    assert demo.tokenizer.unknown("a photo of a maple tree.") == ["maple", "tree"]
    assert len(set(demo.tokenizer.encode_all(["maple tree"])[0])) == 2
    assert demo.encode_prompts(["a photo of a maple tree."]).isfinite().all()


def test_words_are_whole_and_punctuation_stands_alone():
    tokenizer = WordTokenizer(["<pad>", "<start>", "red", ".", "<spare0>", "<end>"])
    assert tokenizer.encode_all(["Red."]) == [[2, 3]]


def test_missing_weights_say_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "clip.json").write_text(
        '{"architecture": {}, "vocabulary": [], "weights": {"sha256": "", "pieces": ["weights-1.json"]}}'
    )
    monkeypatch.setattr(resources, "files", lambda name: tmp_path)
    with pytest.raises(StateError, match="pip install -e"):
        load_backbone("demo", CPU)
