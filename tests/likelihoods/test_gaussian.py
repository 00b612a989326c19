"""Real targets: the learned noise against quadrature over its precision, and against linear regression."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Bernoulli, Categorical, Gaussian, Poisson
from secateur.reduction import NormalGamma, regression_log_evidence

LEARNED = Gaussian(noise="learned", concentration=3.5, rate=1.7)


def over_the_noise(function, likelihood=LEARNED) -> float:
    """Integrate a function of the noise precision under its Gamma distribution."""
    density = stats.gamma(likelihood.concentration, scale=1 / likelihood.rate).pdf
    return integrate.quad(lambda tau: density(tau) * function(tau), 0, np.inf, epsabs=1e-12, limit=200)[0]


def normal(residuals, tau) -> float:
    """Log density of residuals with one noise precision."""
    return float(stats.norm(scale=tau**-0.5).logpdf(residuals).sum())


def test_loss_of_learned_noise_is_the_expected_one_by_quadrature():
    residuals = np.array([0.4, -1.3])
    expected = -over_the_noise(lambda tau: normal(residuals, tau))
    found = LEARNED.loss(torch.zeros(1, 2, dtype=torch.float64), torch.tensor(residuals)[None])
    assert found.item() == pytest.approx(expected, rel=1e-9)
    assert LEARNED.precision == pytest.approx(over_the_noise(lambda tau: tau), rel=1e-9)


@pytest.mark.parametrize("residuals", [[0.4], [3.0, -1.3, 0.1]])
def test_prediction_with_learned_noise_integrates_it_out_by_quadrature(residuals):
    residuals = np.array(residuals)
    expected = math.log(over_the_noise(lambda tau: math.exp(normal(residuals, tau))))
    prediction = LEARNED.predict(torch.zeros(1, len(residuals), dtype=torch.float64))
    found = LEARNED.log_likelihood(prediction, torch.tensor(residuals)[None])
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_updating_is_the_posterior_of_regression_without_regressors(generator):
    """Datum by datum the predictive densities multiply to the evidence of the Normal-Gamma model."""
    targets = torch.randn(30, generator=generator, dtype=torch.float64)
    outputs = torch.zeros(30, 1, dtype=torch.float64)
    likelihood, total = Gaussian(noise="learned"), 0.0
    for output, target in zip(outputs, targets, strict=True):
        total += likelihood.log_likelihood(likelihood.predict(output[None]), target[None]).item()
        likelihood = likelihood.updated(output[None], target[None])
    double = {"dtype": torch.float64}
    prior = NormalGamma(
        torch.zeros(1, **double),
        torch.eye(1, **double),
        torch.tensor(2.0, **double),
        torch.tensor(2.0, **double),
    )
    evidence = regression_log_evidence(torch.zeros(30, 1, **double), targets, prior=prior)
    assert total == pytest.approx(evidence.item(), rel=1e-10)
    whole = Gaussian(noise="learned").updated(outputs, targets)
    assert whole.concentration == likelihood.concentration == 2 + 15
    assert whole.rate == pytest.approx(likelihood.rate)


def test_learned_noise_finds_the_true_one(generator):
    outputs = torch.randn(5000, 2, generator=generator)
    targets = outputs + 0.25 * torch.randn(5000, 2, generator=generator)
    likelihood = Gaussian(noise="learned").updated(outputs, targets)
    spread = likelihood.precision / math.sqrt(likelihood.concentration)
    assert abs(likelihood.precision - 16) < 5 * spread
    known, learned = Gaussian(noise=0.25).scores(outputs, targets), likelihood.scores(outputs, targets)
    assert learned == pytest.approx(known, rel=0.02)
    assert Gaussian(noise=0.25).updated(outputs, targets) == Gaussian(noise=0.25)


def test_draws_of_learned_noise_are_student_t(generator):
    drawn = LEARNED.sample(torch.zeros(20_000), generator).double().numpy()
    student = stats.t(2 * LEARNED.concentration, scale=math.sqrt(LEARNED.rate / LEARNED.concentration))
    assert stats.kstest(drawn, student.cdf).pvalue > 1e-3
    assert stats.kstest(drawn, stats.norm(scale=student.std()).cdf).pvalue < 1e-3  # no Gaussian would do
    # the outputs of one datum share the precision, so their squares go together
    pairs = LEARNED.sample(torch.zeros(20_000, 2), generator).double().square().log()
    assert np.corrcoef(pairs.numpy().T)[0, 1] > 0.05


def crps_by_quadrature(members, target) -> float:
    """Integrate (F(x) - 1[x >= y])^2 for an even mixture."""
    below, above = np.linspace(-60, target, 40_001), np.linspace(target, 60, 40_001)
    under = np.mean([member.cdf(below) for member in members], 0) ** 2
    over = np.mean([member.sf(above) for member in members], 0) ** 2
    return integrate.simpson(under, x=below) + integrate.simpson(over, x=above)


@pytest.mark.parametrize("target", [-2.0, 0.7, 9.0])
def test_continuous_ranked_probability_score_by_quadrature(target):
    means = [0.0, 1.0, 4.0]
    outputs = torch.tensor(means, dtype=torch.float64).view(3, 1, 1)
    targets = torch.tensor([[target]], dtype=torch.float64)
    found = Gaussian(noise=0.8).scores(outputs, targets, samples=True)
    expected = crps_by_quadrature([stats.norm(mean, 0.8) for mean in means], target)
    assert found["continuous_ranked_probability_score"] == pytest.approx(expected, rel=1e-6)
    found = LEARNED.scores(outputs, targets, samples=True)
    scale = math.sqrt(LEARNED.rate / LEARNED.concentration)
    expected = crps_by_quadrature([stats.t(2 * LEARNED.concentration, mean, scale) for mean in means], target)
    # a learned noise is represented by quantiles
    assert found["continuous_ranked_probability_score"] == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("likelihood", [Gaussian(noise=0.5), LEARNED], ids=["known", "learned"])
def test_coverage_is_at_its_level_where_the_model_is_true(likelihood, generator):
    outputs = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    scores = likelihood.scores(outputs, likelihood.sample(outputs, generator))
    for level in (0.5, 0.9):
        error = math.sqrt(level * (1 - level) / 20_000)
        assert abs(scores[f"coverage_{100 * level:.0f}"] - level) < 5 * error + 0.003
    overconfident = Gaussian(noise=0.05).scores(outputs, Gaussian(noise=0.5).sample(outputs, generator))
    assert overconfident["coverage_90"] < 0.2


def test_error_is_the_root_mean_square_of_the_averaged_mean():
    outputs = torch.tensor([[[1.0], [5.0]], [[3.0], [5.0]]])
    targets = torch.tensor([[2.0], [1.0]])
    scores = Gaussian().scores(outputs, targets, samples=True)
    assert scores["root_mean_squared_error"] == pytest.approx(math.sqrt((0 + 16) / 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 0.0}, "noise: expected a positive finite number, got 0.0"),
        ({"noise": math.inf}, "noise: expected a positive finite number"),
        ({"noise": "learned", "rate": -1.0}, "rate: expected a positive finite number, got -1.0"),
    ],
)
def test_unusable_noise_is_refused(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Gaussian(**options)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            torch.tensor([[1.0], [math.nan]]),
            "expected finite numbers, got nan or infinity in 1 of 2",
        ),
        (torch.tensor([[True], [False]]), "targets: expected real numbers, got torch.bool"),
        (torch.tensor([[1j], [0j]]), "targets: expected real numbers, got torch.complex64"),
        (torch.zeros(3, 1), r"one for each output, shape \(2, 1\), got \(3, 1\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused_with_the_remedy(targets, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Gaussian().check(torch.zeros(2, 1), targets)


def test_residuals_that_are_not_finite_teach_nothing():
    with pytest.raises(InvalidArgumentError, match="finite residuals"):
        Gaussian(noise="learned").updated(torch.tensor([math.nan]), torch.tensor([0.0]))


def test_no_samples_are_no_average():
    for likelihood in (Categorical(), Bernoulli(), Gaussian(), Poisson()):
        with pytest.raises(InvalidArgumentError, match="at least one sample"):
            likelihood.average([])
