"""Counts: scores against scikit-learn, draws, and what is refused."""

import math

import pytest
import torch
from scipy import stats
from sklearn.metrics import mean_poisson_deviance, root_mean_squared_error

from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Poisson


def test_scores_are_those_of_scikit_learn(generator):
    log_rates = torch.randn(200, generator=generator, dtype=torch.float64)
    counts = Poisson().sample(log_rates, generator)
    scores = Poisson().scores(log_rates, counts)
    rates = log_rates.exp().numpy()
    assert scores["deviance"] == pytest.approx(mean_poisson_deviance(counts.numpy(), rates))
    assert scores["root_mean_squared_error"] == pytest.approx(root_mean_squared_error(counts.numpy(), rates))
    expected = -stats.poisson(rates).logpmf(counts.numpy()).mean()
    assert scores["negative_log_likelihood"] == pytest.approx(expected)


def test_samples_average_rates(generator):
    log_rates = torch.randn(3, 40, 2, generator=generator, dtype=torch.float64)
    counts = Poisson().sample(log_rates[0], generator)
    scores = Poisson().scores(log_rates, counts, samples=True)
    rates = log_rates.exp().mean(0).numpy()
    assert scores["deviance"] == pytest.approx(mean_poisson_deviance(counts.numpy().ravel(), rates.ravel()))


def test_draws_have_mean_and_variance_of_the_rate(generator):
    drawn = Poisson().sample(torch.full((40_000,), math.log(3.5)), generator).double()
    assert abs(drawn.mean() - 3.5) < 5 * math.sqrt(3.5 / 40_000)
    # the variance of the variance of counts: (mu + 2 mu^2) / n
    assert abs(drawn.var() - 3.5) < 5 * math.sqrt((3.5 + 2 * 3.5**2) / 40_000)


def test_counts_may_be_of_any_kind():
    log_rates = torch.tensor([0.3, -1.0])
    expected = Poisson().loss(log_rates, torch.tensor([4.0, 0.0]))
    for counts in (
        torch.tensor([4, 0]),
        torch.tensor([4, 0], dtype=torch.uint8),
        torch.tensor([4, 0]).half(),
    ):
        Poisson().check(log_rates, counts)
        assert torch.equal(Poisson().loss(log_rates, counts), expected)


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (
            torch.zeros(2),
            torch.tensor([0, -3]),
            r'counts from 0, got -3; use likelihood="gaussian"',
        ),
        (torch.zeros(2), torch.tensor([0.5, 1.0]), r"expected whole numbers, got others as torch.float32"),
        (torch.zeros(2), torch.tensor([math.inf, 1.0]), r"expected whole numbers"),
        (torch.zeros(2), torch.tensor([1j, 1.0]), r"expected whole numbers, got others as torch.complex64"),
        (torch.zeros(2, 3), torch.zeros(2), r"one for each output, shape \(2, 3\), got \(2,\)"),
        (
            torch.tensor([1e4, 0.0]),
            torch.tensor([1, 1]),
            r"whose exponential is finite, got up to 10000",
        ),
    ],
)
def test_targets_that_do_not_fit_are_refused_with_the_remedy(outputs, targets, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        Poisson().check(outputs, targets)
    assert "\n" not in str(caught.value)
