from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.training.augment import random_crop
from fedpurel_app.training.feature_store import image_features, image_pixels
from fedpurel_app.training.inputs import FreshCrops, LocalData, ManyViews


def picture(width=60, height=40):
    """Red grows to the right, green downwards: the colours of a view tell where it was cut."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, 0 * red], 2).astype(np.uint8))


class Pictures:
    labels, fingerprint = np.arange(6) % 3, "pictures"

    def images(self, rows):
        return [picture(40 + 3 * int(row), 50) for row in rows]


@pytest.fixture(scope="module")
def demo():
    return load_backbone("demo", torch.device("cpu"))


def test_views_are_crops_of_every_size_mirrored_half_of_the_time():
    views = [random_crop(picture(), 32, np.random.default_rng(seed)).float() for seed in range(300)]
    assert views[0].shape == (3, 32, 32)
    spans = np.array([[float(v[0].max() - v[0].min()) / 255, float(v[1].max() - v[1].min()) / 255] for v in views])
    areas = spans[:, 0] * spans[:, 1]
    assert areas.min() < 0.15 and areas.max() > 0.8 and 0.4 < areas.mean() < 0.65
    mirrored = np.mean([float(v[0, 0, 0]) > float(v[0, 0, -1]) for v in views])
    assert 0.4 < mirrored < 0.6


def test_an_image_that_no_crop_fits_is_cut_in_the_middle():
    view = random_crop(picture(600, 6), 8, np.random.default_rng(0))
    assert view.shape == (3, 8, 8) and 100 < float(view[0].float().mean()) < 155


def test_frozen_views_are_the_same_for_everyone_and_differ(tmp_path, demo):
    pixels = [image_pixels(Pictures(), demo, tmp_path, view) for view in (0, 1, 2)]
    again = image_pixels(Pictures(), demo, tmp_path / "other", 1)
    assert np.array_equal(pixels[1], again)
    assert not np.array_equal(pixels[1], pixels[2]) and not np.array_equal(pixels[0], pixels[1])
    expected = random_crop(picture(40 + 3 * 4, 50), 32, np.random.default_rng([1, 4]))
    assert np.array_equal(pixels[1][4], expected.numpy())


def test_cached_features_are_those_of_the_pixels(tmp_path, demo):
    """What is encoded on the fly and what comes from the cache is one thing."""
    for view in (0, 1):
        pixels = torch.from_numpy(np.array(image_pixels(Pictures(), demo, tmp_path, view)))
        features = image_features(Pictures(), demo, tmp_path, view)
        assert np.allclose(demo.encode_pixels(pixels).numpy(), features, atol=1e-5)


def test_a_batch_is_of_one_view():
    views = ManyViews(
        tuple(LocalData(torch.full((4, 2), float(k)), torch.arange(4), torch.full((4, 3), float(k))) for k in range(3))
    )
    seen = set()
    for seed in range(30):
        inputs, reference = views.batch(torch.tensor([1, 3]), torch.Generator().manual_seed(seed))
        assert inputs.shape == (2, 2) and float(inputs.min()) == float(reference.max())
        seen.add(float(inputs[0, 0]))
    assert seen == {0.0, 1.0, 2.0}
    doubled = views.measured_against(lambda x: 2 * x[:, :1])
    inputs, reference = doubled.batch(torch.tensor([0]), torch.Generator().manual_seed(0))
    assert float(reference[0, 0]) == 2 * float(inputs[0, 0])


@pytest.mark.parametrize("takes", ["features", "pixels", "patches"])
def test_fresh_crops_are_measured_on_the_same_view(demo, takes):
    rows = np.array([1, 2, 5])
    data = FreshCrops(Pictures().images, rows, torch.tensor([1, 2, 2]), demo, takes, lambda features: features[:, :4])
    draws = [data.batch(torch.tensor([0, 2]), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0][0], draws[1][0]) and not torch.equal(draws[0][0], draws[2][0])
    inputs, reference = draws[0]
    if takes == "patches":
        assert inputs.shape == (2, 64, 128) and torch.allclose(inputs.norm(dim=-1), torch.ones(2, 64), atol=1e-5)
        same = replace(data, takes="features").batch(torch.tensor([0, 2]), torch.Generator().manual_seed(0))
        inputs, _ = same  # the views that the patches are of, as features
    features = demo.encode_pixels(inputs) if takes == "pixels" else inputs
    assert torch.allclose(features[:, :4], reference, atol=1e-5)
    inputs, reference = data.measured_against(lambda x: x.flatten(1)[:, :2].float()).batch(
        torch.tensor([0, 2]), torch.Generator().manual_seed(0)
    )
    assert torch.equal(inputs, draws[0][0]) and torch.equal(reference, inputs.flatten(1)[:, :2].float())
