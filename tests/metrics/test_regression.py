"""Scores of numbers and counts: by hand, against draws, and where they must be at their best."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur import metrics

UNIT = torch.ones(1, dtype=torch.float64)


def test_errors_by_hand():
    predicted = torch.tensor([1.0, 2.0, 5.0])
    assert metrics.root_mean_squared_error(predicted, torch.tensor([1.0, 4.0, 6.0])) == pytest.approx(
        math.sqrt(5 / 3)
    )
    # 2 [2 ln(2 / 1) - 1] and, for a count of 0, twice the rate
    found = metrics.poisson_deviance(torch.tensor([1.0, 0.5]), torch.tensor([2.0, 0.0]))
    assert found == pytest.approx((2 * (2 * math.log(2) - 1) + 1) / 2)
    assert metrics.poisson_deviance(torch.tensor([3.0, 1e-30]), torch.tensor([3.0, 0.0])) == pytest.approx(0)


def test_score_of_one_gaussian_is_its_textbook_form(generator):
    means = torch.randn(40, 1, generator=generator, dtype=torch.float64)
    targets = torch.randn(40, generator=generator, dtype=torch.float64)
    std = 0.6
    z = (targets - means[:, 0]) / std
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = std * (z * (2 * normal.cdf(z) - 1) + 2 * normal.log_prob(z).exp() - 1 / math.sqrt(math.pi))
    found = metrics.continuous_ranked_probability_score(means, targets, std**2 * UNIT)
    assert found == pytest.approx(expected.mean().item(), rel=1e-12)


def test_score_of_a_mixture_is_the_expectation_over_its_draws(generator):
    means = torch.tensor([[0.0, 2.0, 3.0]], dtype=torch.float64)
    variances = torch.tensor([0.5, 2.0], dtype=torch.float64)
    target = torch.tensor([1.5], dtype=torch.float64)

    def drawn():
        which = torch.randint(3, (200_000,), generator=generator)
        noise = variances[torch.randint(2, (200_000,), generator=generator)].sqrt()
        return means[0, which] + noise * torch.randn(200_000, generator=generator, dtype=torch.float64)

    first, second = drawn(), drawn()
    each = (first - target).abs() - 0.5 * (first - second).abs()
    found = metrics.continuous_ranked_probability_score(means, target, variances)
    assert abs(found - each.mean().item()) < 5 * each.std().item() / math.sqrt(200_000)
    rank = metrics.mixture_rank(means, target, variances).item()
    below = (first <= target).double()
    assert abs(rank - below.mean().item()) < 5 * below.std().item() / math.sqrt(200_000)


def test_score_is_the_same_in_parts_and_with_many_variances_merged(generator, monkeypatch):
    means = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(50, generator=generator, dtype=torch.float64)
    variances = torch.rand(20, generator=generator, dtype=torch.float64) + 0.1
    merged = metrics.continuous_ranked_probability_score(means, targets, variances)
    monkeypatch.setattr(metrics.regression, "PAIR_VARIANCES", 400)
    whole = metrics.continuous_ranked_probability_score(means, targets, variances)
    assert merged == pytest.approx(whole, rel=1e-5)
    monkeypatch.setattr(metrics.regression, "NUMBERS_AT_ONCE", 7 * 16)
    assert metrics.continuous_ranked_probability_score(means, targets, variances) == pytest.approx(whole)


@given(mean=st.floats(-5, 5), log_std=st.floats(-3, 3))
def test_the_true_distribution_has_the_best_expected_score(mean, log_std):
    """A proper score: under N(0, 1) no other Gaussian beats it."""
    targets = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(200, dtype=torch.float64) + 0.5) / 200)
    other = metrics.continuous_ranked_probability_score(
        torch.full((200, 1), mean, dtype=torch.float64), targets, math.exp(2 * log_std) * UNIT
    )
    true = metrics.continuous_ranked_probability_score(
        torch.zeros(200, 1, dtype=torch.float64), targets, UNIT
    )
    assert other >= true - 1e-3  # the targets are quantiles, not all of the distribution


def test_ranks_and_coverage_by_hand():
    targets = torch.tensor([0.0, 0.6, -1.0, 3.0], dtype=torch.float64)
    ranks = metrics.mixture_rank(torch.zeros(4, 1, dtype=torch.float64), targets, UNIT)
    torch.testing.assert_close(
        ranks, torch.tensor([0.5, 0.725747, 0.158655, 0.998650], dtype=torch.float64), rtol=0, atol=1e-6
    )
    assert metrics.coverage(ranks, 0.5) == 0.5  # the quartiles are at .674
    assert metrics.coverage(ranks, 0.9) == 0.75
    assert metrics.coverage(ranks, 1.0) == 1.0
