"""The running Hessian: the update in its words, and never a precision that is not positive."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.inference.hessian import sample_weights, track_hessian

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
