"""Evidence from MCMC draws: the nonzero set recovered, and delta_f right within Monte Carlo error.

NumPyro's NUTS samples the full model alone. What removing a regressor does to the evidence is then
predicted from a Gaussian fitted to the draws, and compared with the ratio of the two models' evidences:
exact for the linear model, by importance sampling for the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from scipy.stats import multivariate_normal, multivariate_t, norm

from secateur.reduction import (
    DrawnGaussian,
    delta_f,
    dense_delta_f,
    from_draws,
    search_subsets,
    single_delta_f,
)

pytestmark = pytest.mark.slow

FLOAT64 = torch.float64
PRIOR_PRECISION = 0.5
WEIGHTS = np.array([1.0, 0.0, -0.8, 0.0, 0.6, 0.0])
NONZERO = WEIGHTS != 0


@dataclass(frozen=True)
class Problem:
    """A regression whose log likelihood takes a batch of weights, shape (draws, n)."""

    inputs: np.ndarray
    targets: np.ndarray
    log_likelihood: Callable[[np.ndarray], np.ndarray]
    sample_targets: Callable[[Any, Any], Any]
    shape: tuple[int, ...]


@pytest.fixture(autouse=True)
def needs_numpyro() -> None:
    """Imported only where a test runs: JAX takes its time, and belongs to the extra `mcmc`."""
    pytest.importorskip("numpyro")


def correlated_inputs(num_data: int, rng: np.random.Generator) -> np.ndarray:
    """Six regressors, neighbours correlated at 0.6."""
    lag = np.abs(np.subtract.outer(range(6), range(6)))
    return rng.multivariate_normal(np.zeros(6), 0.6**lag, num_data)


def linear() -> Problem:
    rng = np.random.default_rng(0)
    inputs = correlated_inputs(120, rng)
    targets = inputs @ WEIGHTS + rng.normal(size=120)

    def log_likelihood(weights: np.ndarray) -> np.ndarray:
        return norm.logpdf(targets, weights @ inputs.T).sum(-1)

    def sample_targets(x: Any, w: Any) -> Any:
        import numpyro

        return numpyro.distributions.Normal(x @ w, 1.0)

    return Problem(inputs, targets, log_likelihood, sample_targets, (6,))


def logistic() -> Problem:
    rng = np.random.default_rng(1)
    inputs = correlated_inputs(600, rng)
    targets = (rng.random(600) < 1 / (1 + np.exp(-inputs @ WEIGHTS))).astype(np.int32)

    def log_likelihood(weights: np.ndarray) -> np.ndarray:
        logits = weights @ inputs.T
        return (targets * logits - np.logaddexp(0, logits)).sum(-1)

    def sample_targets(x: Any, w: Any) -> Any:
        import numpyro

        return numpyro.distributions.BernoulliLogits(x @ w)

    return Problem(inputs, targets, log_likelihood, sample_targets, (6,))


MULTINOMIAL_WEIGHTS = np.array([[1.2, 0.0], [0.0, -1.0], [0.0, 0.0], [0.9, 0.9]])


def multinomial() -> Problem:
    """Three classes, the last the reference; four regressors."""
    rng = np.random.default_rng(2)
    inputs = correlated_inputs(800, rng)[:, :4]
    full = np.concatenate([MULTINOMIAL_WEIGHTS, np.zeros((4, 1))], 1)
    probability = np.exp(log_softmax(inputs @ full, -1))
    targets = (rng.random((800, 1)) > probability.cumsum(-1)).sum(-1).astype(np.int32)

    def log_likelihood(weights: np.ndarray) -> np.ndarray:
        logits = np.einsum("ni,dik->dnk", inputs, weights.reshape(-1, 4, 2))
        logits = np.concatenate([logits, np.zeros((*logits.shape[:2], 1))], -1)
        return log_softmax(logits, -1)[:, np.arange(800), targets].sum(-1)

    def sample_targets(x: Any, w: Any) -> Any:
        import jax.numpy as jnp
        import numpyro

        logits = x @ w
        return numpyro.distributions.CategoricalLogits(
            jnp.concatenate([logits, jnp.zeros_like(logits[:, :1])], -1)
        )

    return Problem(inputs, targets, log_likelihood, sample_targets, (4, 2))


def nuts(problem: Problem, num_draws: int = 4000) -> tuple[np.ndarray, float]:
    """Draws of the full model, flattened, and the smallest effective sample size."""
    import jax
    import numpyro

    def model() -> None:
        prior = numpyro.distributions.Normal(0.0, PRIOR_PRECISION**-0.5)
        w = numpyro.sample("w", prior.expand(problem.shape).to_event(len(problem.shape)))
        numpyro.sample("y", problem.sample_targets(problem.inputs, w), obs=problem.targets)

    kernel = numpyro.infer.NUTS(model)
    sampler = numpyro.infer.MCMC(kernel, num_warmup=500, num_samples=num_draws, progress_bar=False)
    sampler.run(jax.random.PRNGKey(0))
    draws = np.asarray(sampler.get_samples()["w"], dtype=np.float64)
    effective = numpyro.diagnostics.effective_sample_size(draws[None])
    return draws.reshape(num_draws, -1), float(np.min(effective))


def log_evidence(
    problem: Problem, fit: DrawnGaussian, kept: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """Importance sampling of the model with the kept weights alone, and its standard error."""
    precision = fit.precision.numpy()[np.ix_(kept, kept)]
    shift = np.linalg.solve(precision, (fit.precision.numpy() @ fit.mean.numpy())[kept])
    proposal = multivariate_t(shift, np.linalg.inv(precision), df=8)
    weights = np.zeros((20_000, kept.size))
    weights[:, kept] = proposal.rvs(20_000, random_state=rng)
    prior = norm.logpdf(weights[:, kept], scale=PRIOR_PRECISION**-0.5).sum(-1)
    likelihood = np.concatenate([problem.log_likelihood(part) for part in np.array_split(weights, 20)])
    ratios = likelihood + prior - proposal.logpdf(weights[:, kept])
    relative = np.exp(ratios - ratios.max())
    return logsumexp(ratios) - np.log(20_000), relative.std() / relative.mean() / np.sqrt(20_000)


def monte_carlo_error(fit: DrawnGaussian, effective: float) -> np.ndarray:
    """Standard error of each single delta_f from that of mean and variance of its marginal."""
    variance = torch.linalg.inv(fit.precision).diagonal().numpy()
    p, m = 1 / variance, fit.mean.numpy()
    return np.sqrt(((0.5 / p - 0.5 * m**2) ** 2 * 2 * p**2 + p * m**2) / effective)


@pytest.fixture(scope="module")
def prior() -> Callable[[int], torch.Tensor]:
    return lambda size: PRIOR_PRECISION * torch.eye(size, dtype=FLOAT64)


def test_linear_regression_is_exact_within_monte_carlo_error(prior: Callable[[int], torch.Tensor]) -> None:
    problem = linear()
    draws, effective = nuts(problem)
    fit = from_draws(draws, covariance=True)
    got = single_delta_f(*fit, prior_precision=prior(6)).numpy()

    def exact(kept: np.ndarray) -> float:
        x = problem.inputs[:, kept]
        return multivariate_normal(np.zeros(120), np.eye(120) + x @ x.T / PRIOR_PRECISION).logpdf(
            problem.targets
        )

    full = exact(np.ones(6, dtype=bool))
    expected = np.array([exact(np.arange(6) != k) - full for k in range(6)])
    error = monte_carlo_error(fit, effective)
    assert (np.abs(got - expected) < 4 * error + 1e-3).all()
    assert (error[~NONZERO] < 0.1).all()
    assert np.array_equal(got < 0, NONZERO)
    assert np.array_equal(~search_subsets(*fit, prior_precision=prior(6)).best_removed.numpy(), NONZERO)

    joint_pins = torch.diag(torch.where(torch.from_numpy(NONZERO), 0.5, torch.inf).to(FLOAT64))
    joint = dense_delta_f(*fit, prior_precision=prior(6), reduced_precision=joint_pins).item()
    assert joint == pytest.approx(exact(NONZERO) - full, abs=4 * np.sqrt((error[~NONZERO] ** 2).sum()) + 0.05)

    # The same draws per weight: marginals are the same, so single removals are too.
    alone = delta_f(*from_draws(draws), prior_precision=PRIOR_PRECISION).numpy()
    np.testing.assert_allclose(alone, got, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("problem", "nonzero"),
    [(logistic(), NONZERO), (multinomial(), (MULTINOMIAL_WEIGHTS != 0).ravel())],
    ids=["logistic", "multinomial"],
)
def test_classification_agrees_with_importance_sampling(
    problem: Problem, nonzero: np.ndarray, prior: Callable[[int], torch.Tensor]
) -> None:
    draws, effective = nuts(problem)
    fit = from_draws(draws, covariance=True)
    size = draws.shape[-1]
    got = single_delta_f(*fit, prior_precision=prior(size)).numpy()
    assert np.array_equal(got < 0, nonzero)
    assert np.array_equal(~search_subsets(*fit, prior_precision=prior(size)).best_removed.numpy(), nonzero)

    rng = np.random.default_rng(3)
    full, full_error = log_evidence(problem, fit, np.ones(size, dtype=bool), rng)
    error = monte_carlo_error(fit, effective)
    for k in np.flatnonzero(~nonzero):
        reduced, reduced_error = log_evidence(problem, fit, np.arange(size) != k, rng)
        allowed = (
            4 * np.sqrt(error[k] ** 2 + full_error**2 + reduced_error**2) + 0.05
        )  # and not quite Gaussian
        assert got[k] == pytest.approx(reduced - full, abs=allowed)
        assert allowed < 0.5
