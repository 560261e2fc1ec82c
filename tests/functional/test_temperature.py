import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import brentq

from fedpurel_app.functional import entropy, match_temperature, temperature
from fedpurel_app.functional.temperature import MARGIN, entropy_range

CLASSES = (2, 3, 10, 48, 365, 1000)


def exact_entropy(logits, temperature):
    """Entropy in double precision, with the maximum taken off first."""
    rows = logits.double()
    scaled = (rows - rows.amax(-1, keepdim=True)) / temperature.double()[..., None]
    log_probs = scaled.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def families(classes):
    """Rows of every kind that training meets, and some that it should not."""
    rows = 60 if classes < 300 else 15
    generator = torch.Generator().manual_seed(classes)
    normal = torch.randn(rows, classes, generator=generator)
    tied = normal.clone()
    tied[:, : max(1, classes // 3)] = normal.amax(1, keepdim=True) + 0.5
    near_tie = 20 * normal
    near_tie[:, 0] = near_tie.amax(1) + 1e-5
    near_tie[:, -1] = near_tie[:, 0] - 2e-6
    saturated = torch.zeros(rows, classes)
    saturated[:, 0] = 80.0
    outlier = 30 * torch.rand(rows, classes, generator=generator)
    outlier[:, -1] = -1e6
    yield from ((f"normal x {scale:g}", scale * normal) for scale in (1e-5, 1e-2, 1.0, 20.0, 1e3, 1e8))
    yield from (("tied", tied), ("near tie", near_tie), ("saturated", saturated), ("outlier", outlier))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_entropy_after_matching_equals_its_target(classes, share):
    for name, rows in families(classes):
        low, high = entropy_range(rows)
        reachable = low <= high
        target = low + share * (high - low)
        temperature = match_temperature(rows, target)
        error = (exact_entropy(rows, temperature) - target.double()).abs()[reachable]
        assert torch.isfinite(temperature).all() and (temperature > 0).all(), name
        assert not len(error) or error.max() <= 1e-5, (name, float(error.max()))


@pytest.mark.parametrize(("classes", "outliers"), [(3, 1), (5, 1), (5, 3), (48, 1), (48, 20), (1000, 1)])
@pytest.mark.parametrize("far", [1e6, 1e9, 1e12, 1e20, 1e30, torch.finfo(torch.float32).max])
def test_an_outlier_at_any_distance_hides_no_temperature(classes, outliers, far):
    """Targets over the whole range, and close to log(C - outliers), where the entropy hardly moves with tau."""
    generator = torch.Generator().manual_seed(classes)
    rows = 3 * torch.randn(60, classes, generator=generator)
    rows[:, classes - outliers :] = -far
    spread, sign = (torch.rand(60, generator=generator) for _ in range(2))
    plateau = math.log(classes - outliers) + (sign - 0.5) * 10 ** (-4 * spread)
    most = math.log(classes - outliers if far > 1e30 else classes) - MARGIN  # tau beyond fp32 would be needed
    for target in (MARGIN + spread * (most - MARGIN), plateau):
        target = target.clamp(MARGIN, most)
        error = (exact_entropy(rows, match_temperature(rows, target)) - target.double()).abs()
        assert error.max() <= 1e-5, float(error.max())


@pytest.mark.parametrize("gap", [1e-3, 1e-9, 1e-15, 1e-25])
def test_maxima_as_close_as_fp32_can_hold_are_told_apart(gap):
    """Rows (0, -gap, -1): low entropies need tau near gap; none of these logits is a rounding of another."""
    rows = torch.tensor([[0.0, -gap, -1.0]])
    assert float(entropy_range(rows)[0]) == pytest.approx(MARGIN)
    for target in (0.01, 0.5, 0.69):
        assert float(exact_entropy(rows, match_temperature(rows, torch.tensor([target])))) == pytest.approx(
            target, abs=1e-5
        )


def test_maxima_that_rounding_parts_are_tied():
    """In double precision 25 and 25 + 1e-14 come from one number; their gap is no temperature to go by."""
    rows = torch.tensor([[25.0, 25.0 + 1e-14, 20.0]], dtype=torch.float64)
    assert rows[0, 0] != rows[0, 1]
    assert float(entropy_range(rows)[0]) == pytest.approx(math.log(2) + MARGIN)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_rows_that_training_meets_need_newton_alone(classes, monkeypatch):
    def divide(rows, target):
        raise AssertionError(f"{len(rows)} rows were left")

    monkeypatch.setattr(temperature, "_divide", divide)
    for name, rows in families(classes):
        low, high = entropy_range(rows)
        for share in (0.0, 0.01, 0.5, 0.99, 1.0):
            match_temperature(rows, low + share * (high - low))
        assert name


@pytest.mark.parametrize("classes", CLASSES)
def test_agrees_with_a_root_finder_in_double_precision(classes):
    """Compare temperatures where they are well determined: entropies in the middle of their range."""
    rows = 5 * torch.randn(20, classes, generator=torch.Generator().manual_seed(3))
    target = torch.full((20,), 0.5 * math.log(classes))
    found = match_temperature(rows, target)
    for row, goal, tau in zip(rows, target, found, strict=True):

        def miss(u, row=row, goal=goal):
            return float(exact_entropy(row, torch.tensor(u, dtype=torch.float64).exp()) - goal)

        assert float(tau.log()) == pytest.approx(brentq(miss, -20, 20, xtol=1e-12), abs=1e-3)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_division_alone_finds_every_temperature(classes):
    """A GPU divides for all rows, and takes the outcome where Newton's steps have run out."""
    for name, rows in families(classes):
        low, high = entropy_range(rows)
        for share in (0.0, 0.1, 0.9, 1.0):
            target = low + share * (high - low)
            error = (exact_entropy(rows, temperature._divide(rows, target)) - target.double()).abs()[low <= high]
            assert not len(error) or error.max() <= 1e-5, (name, share, float(error.max()))
    equal = temperature._divide(torch.full((1, classes), 3.0), torch.tensor([math.log(classes)]))
    assert torch.isfinite(equal) and equal > 0


def test_targets_out_of_reach_are_clipped():
    rows = torch.tensor([[3.0, 3.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0]])
    temperature = match_temperature(rows, torch.tensor([0.0, 99.0]))
    expected = [math.log(2) + MARGIN, math.log(4) - MARGIN]
    assert exact_entropy(rows, temperature).tolist() == pytest.approx(expected, abs=1e-5)


def test_equal_logits_have_temperature_one():
    assert match_temperature(torch.full((2, 5), 7.0), torch.tensor([0.3, 1.0])).tolist() == [1.0, 1.0]


@given(
    st.lists(st.floats(-300, 300, width=32), min_size=2, max_size=40),
    st.floats(0, 1),
    st.floats(2**-10, 2**10, width=32),
)
@example([0.0, 9.97716614559933e-16, -1.0], 0.0, 1.0)  # nearly tied maxima that a shift would tie
@example([0.0, 4.76837158203125e-07], 0.0, 1.0)
def test_matching_is_invariant_to_shift_and_scale(values, share, scale):
    rows = torch.tensor([values])
    low, high = entropy_range(rows)
    if low > high:
        return
    target = low + share * (high - low)
    shifted = rows + 10 if torch.equal(rows + 10 - 10, rows) else rows  # rounding may close a gap between two logits
    for other in (rows * scale, shifted):
        assert abs(float(exact_entropy(other, match_temperature(other, target)) - target)) <= 2e-5


def test_keeps_leading_shape_and_precision():
    logits = torch.randn(2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    temperature = match_temperature(logits, torch.full((2, 3), 1.0))
    assert temperature.shape == (2, 3) and temperature.dtype == torch.float64
    assert exact_entropy(logits, temperature).flatten().tolist() == pytest.approx([1.0] * 6, abs=1e-5)


def test_refuses_targets_of_another_shape():
    with pytest.raises(ValueError, match=r"one target for each row: \(2,\)"):
        match_temperature(torch.zeros(2, 3), torch.zeros(3))


def test_entropy_survives_impossible_classes():
    assert float(entropy(torch.tensor([[0.0, 0.0, -math.inf]]))) == pytest.approx(math.log(2))


def test_entropy_of_half_precision_is_computed_in_single():
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert entropy(logits).tolist() == pytest.approx(entropy(logits.double()).tolist(), rel=1e-5)
