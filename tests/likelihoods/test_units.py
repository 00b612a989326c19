"""Targets in units of their own: every answer of a likelihood is that of standardised targets, restored."""

import math

import pytest
import torch

from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Gaussian, Poisson, resolve

LOCATION, SCALE = (100.0, -3.0), (20.0, 0.5)


@pytest.fixture
def outputs(generator):
    return torch.randn(30, 2, generator=generator, dtype=torch.float64)


def raw(values):
    return torch.tensor(LOCATION) + torch.tensor(SCALE) * values


@pytest.mark.parametrize("noise", [0.7, "learned"])
def test_a_gaussian_in_units_is_the_plain_one_of_standardised_targets(outputs, generator, noise):
    plain, own = Gaussian(noise=noise), Gaussian(noise=noise, location=LOCATION, scale=SCALE)
    targets = outputs + torch.randn(30, 2, generator=generator, dtype=torch.float64)
    constant = math.log(SCALE[0]) + math.log(SCALE[1])
    torch.testing.assert_close(own.loss(outputs, raw(targets)), plain.loss(outputs, targets) + constant)
    torch.testing.assert_close(own.root(outputs), plain.root(outputs))
    torch.testing.assert_close(own.mean(outputs), raw(outputs))
    plain, own = plain.updated(outputs, targets), own.updated(outputs, raw(targets))
    assert (own.concentration, own.rate) == pytest.approx((plain.concentration, plain.rate))
    draws = [each.sample(outputs, torch.Generator().manual_seed(1)) for each in (own, plain)]
    torch.testing.assert_close(draws[0], raw(draws[1]))
    prediction = own.predict(outputs)
    torch.testing.assert_close(own.expectation(prediction), raw(outputs))
    torch.testing.assert_close(
        own.log_likelihood(prediction, raw(targets)), plain.log_likelihood(prediction, targets) - constant
    )
    assert resolve(own.describe()) == own


def test_scores_of_one_target_are_in_its_unit(outputs, generator):
    outputs = outputs[:, :1]
    targets = outputs + torch.randn(30, 1, generator=generator, dtype=torch.float64)
    plain = Gaussian(noise=1.0).scores(outputs, targets)
    own = Gaussian(noise=1.0, location=5.0, scale=10.0).scores(outputs, 5 + 10 * targets)
    for name in ("root_mean_squared_error", "continuous_ranked_probability_score"):
        assert own[name] == pytest.approx(10 * plain[name])
    for name in ("coverage_50", "coverage_90"):
        assert own[name] == plain[name]
    assert own["negative_log_likelihood"] == pytest.approx(plain["negative_log_likelihood"] + math.log(10))
    assert own["log_predictive_density"] == pytest.approx(plain["log_predictive_density"] - math.log(10))


def test_intervals_of_the_right_noise_hold_what_they_say(generator):
    outputs = torch.zeros(4000, 1, dtype=torch.float64)
    targets = 3 * torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    likelihood = Gaussian(noise=1.0, scale=3.0)
    found = likelihood.intervals(likelihood.predict(outputs), targets)
    errors = (found.level * (1 - found.level) / 4000).sqrt()
    assert ((found.coverage - found.level).abs() < 4 * errors).all()
    narrow = Gaussian(noise=0.5, scale=3.0)
    narrower = narrow.intervals(narrow.predict(outputs), targets)
    assert (narrower.coverage < found.level - 0.01).all()
    assert Poisson().intervals(outputs, targets) is None


def test_a_poisson_scale_shifts_log_rates(outputs, generator):
    plain, own = Poisson(), Poisson(scale=50.0)
    counts = torch.poisson(50 * outputs.exp(), generator=generator)
    shifted = outputs + math.log(50)
    torch.testing.assert_close(own.loss(outputs, counts), plain.loss(shifted, counts))
    torch.testing.assert_close(own.root(outputs), plain.root(shifted))
    torch.testing.assert_close(own.mean(outputs), plain.mean(shifted))
    assert own.scores(outputs, counts) == pytest.approx(plain.scores(shifted, counts))
    assert resolve(own.describe()) == own
    draws = own.sample(torch.zeros(20_000, 1), torch.Generator().manual_seed(0))
    assert draws.mean().item() == pytest.approx(50, abs=4 * math.sqrt(50 / 20_000))


def test_plain_likelihoods_are_described_as_before():
    assert Gaussian().describe() == {"name": "gaussian", "noise": 1.0, "concentration": 2.0, "rate": 2.0}
    assert Poisson().describe() == {"name": "poisson"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Gaussian(scale=0.0), "positive scales"),
        (lambda: Gaussian(location=math.inf), "finite numbers"),
        (
            lambda: Gaussian(scale=(1.0, 2.0)).check(torch.zeros(3, 1)),
            "one number for each of 1 outputs, got 2",
        ),
        (lambda: Poisson(scale=-1.0), "scale: expected a positive"),
    ],
)
def test_units_out_of_range_are_refused(make, says):
    with pytest.raises(InvalidArgumentError, match=says):
        make()
