"""The running Hessian: its update by the formula, precisions that stay positive, and signs as noise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.curvature import RunningCurvature
from secateur.errors import InvalidArgumentError
from secateur.inference import Calibrated
from secateur.inference.hessian import random_words, sample_weights, signs_from_words, track_hessian

DELTA = 1e-3


def test_update_is_the_formula_of_the_module():
    hessian = torch.tensor([0.5, -0.0005, 0.0], dtype=torch.float64)
    gradient = torch.tensor([0.1, -2.0, 0.0], dtype=torch.float64)
    noise = torch.tensor([1.0, 0.7, -1.0], dtype=torch.float64)
    num_data, rate = torch.tensor(100.0, dtype=torch.float64), 0.1
    expected = []
    for h, g, e in zip(hessian.tolist(), gradient.tolist(), noise.tolist(), strict=True):
        estimate = g * e / (1 / (100 * (h + DELTA))) ** 0.5
        expected.append((1 - rate) * h + rate * estimate + rate**2 * (h - estimate) ** 2 / (2 * (h + DELTA)))
    track_hessian(hessian, gradient, noise, DELTA, num_data, rate)
    torch.testing.assert_close(hessian, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@settings(max_examples=200, deadline=None)
@given(
    start=st.floats(1e-6, 1e3),
    rate=st.floats(1e-5, 1.0),
    gradients=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8),
)
def test_precision_stays_at_least_half_of_what_it_was(start, rate, gradients):
    hessian, num_data = torch.tensor([start]), torch.tensor(6e4)
    for gradient in gradients:
        before = (hessian + DELTA).double()
        track_hessian(hessian, torch.tensor([gradient]), torch.ones(1), DELTA, num_data, rate)
        after = (hessian + DELTA).double()
        assert after.isfinite()
        # float32 rounds h, not h + delta, to its 24 bits
        assert after >= 0.5 * before - 4e-7 * max(before.item(), DELTA)


def test_estimate_is_the_curvature_whatever_the_mean(generator):
    """For a quadratic loss, E[h'] is its curvature, at any distance from its minimum."""
    curvature, num_data = torch.tensor(0.3, dtype=torch.float64), torch.tensor(50.0, dtype=torch.float64)
    for distance in (0.0, 2.0):
        estimates = []
        mean = torch.full((20000,), distance, dtype=torch.float64)
        noise = torch.randn(20000, dtype=torch.float64, generator=generator)
        weight = sample_weights(mean, curvature.expand(20000), noise, None, DELTA, num_data)
        hessian = curvature.expand(20000).clone()
        rate = 1e-6  # so that the correction is nothing beside the estimate
        track_hessian(hessian, curvature * weight, noise, DELTA, num_data, rate)
        estimates = (hessian - curvature) / rate + curvature
        error = estimates.std() / 20000**0.5
        assert (estimates.mean() - curvature).abs() < 4.5 * error
        assert error < 0.1 * curvature


def test_removed_weights_get_no_noise():
    keep = torch.tensor([1.0, 0.0])
    weight = sample_weights(torch.zeros(2), torch.ones(2), torch.ones(2), keep, DELTA, torch.tensor(4.0))
    assert weight[1] == 0
    torch.testing.assert_close(weight[0].item(), (4 * (1 + DELTA)) ** -0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_have_zero_mean_and_take_the_dtype(dtype, generator):
    size = (1 << 20) + 17
    signs = signs_from_words(random_words(size, generator=generator), torch.empty(size, dtype=dtype))
    assert signs.dtype == dtype
    assert signs.shape == (size,)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert signs.mean().abs() < 4.5 / math.sqrt(size)


def test_the_64_signs_of_a_word_are_fair_and_independent(generator):
    num_words = 1 << 14
    words = random_words(64 * num_words, generator=generator)
    signs = signs_from_words(words, torch.empty(64 * num_words)).view(num_words, 64)
    bound = 5 / math.sqrt(num_words)  # 2080 comparisons: 5 standard errors
    assert (signs.mean(0).abs() < bound).all()  # the sign bit too, which random_() without bounds leaves 0
    correlation = signs.T @ signs / num_words - torch.eye(64)
    assert (correlation.abs() < bound).all()
    neighbours = (signs[1:] * signs[:-1]).mean(0)
    assert (neighbours.abs() < bound).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_signs_spell_the_bits_of_a_word(word):
    signs = signs_from_words(torch.tensor([word]), torch.empty(64))
    bits = [(word >> position) & 1 for position in range(64)]
    assert signs.tolist() == [2.0 * bit - 1 for bit in bits]


@pytest.mark.parametrize("size", [1, 63, 64, 65, 200])
def test_any_number_of_signs_and_the_seed_decides(size):
    first, second = (
        signs_from_words(random_words(size, generator=torch.Generator().manual_seed(1)), torch.empty(size))
        for _ in range(2)
    )
    assert first.shape == (size,)
    assert torch.equal(first, second)


@pytest.mark.parametrize("rate", [0.02, 0.005])
def test_the_fixed_point_is_too_large_by_what_the_module_says(rate, generator):
    """A loss without curvature: H = 0, gradients of variance s^2, so h = r N s^2 / 2T and not 0."""
    num_data, spread, size = torch.tensor(2e4, dtype=torch.float64), 0.01, 4000
    expected = rate * num_data.item() * spread**2 / 2
    hessian = torch.full((size,), expected, dtype=torch.float64)
    means = []
    for step in range(round(8 / rate)):
        gradient = spread * torch.randn(size, dtype=torch.float64, generator=generator)
        noise = torch.randn(size, dtype=torch.float64, generator=generator)
        track_hessian(hessian, gradient, noise, DELTA, num_data, rate)
        if step > 4 / rate:
            means.append(float(hessian.mean()))
    assert sum(means) / len(means) == pytest.approx(expected, rel=0.05)


def test_the_size_of_a_batch_bounds_that(generator):
    weights = {"w": torch.nn.Parameter(torch.zeros(3))}
    for batch_size, rate in ((None, 1e-3), (120, 0.02 * 0.1 * 120 / 58_000), (10**9, 1e-3)):
        optimizer = Calibrated(weights.items(), num_data=58_000, batch_size=batch_size)
        assert optimizer.param_groups[0]["hessian_rate"] == pytest.approx(rate)
    with pytest.raises(InvalidArgumentError, match=r"^batch_size: expected a positive finite number, got 0"):
        Calibrated(weights.items(), num_data=58_000, batch_size=0)


def test_defaults_follow_from_where_the_precision_comes_from():
    model = torch.nn.Linear(2, 2)
    plain = Calibrated(model.named_parameters(), num_data=100).param_groups[0]
    assert (plain["weight_decay"], plain["temperature"]) == (0.12, 0.1)
    true = Calibrated(model.named_parameters(), num_data=100, curvature=RunningCurvature(model))
    group = true.param_groups[0]
    assert (group["weight_decay"], group["temperature"]) == (0.01, 1e-3)
