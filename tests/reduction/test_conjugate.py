"""Dirichlet, Beta, Gamma and Normal-Gamma evidence against exact marginal likelihoods of data."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import gammaln
from scipy.stats import beta as beta_distribution
from scipy.stats import betabinom, dirichlet_multinomial, multivariate_t, nbinom
from scipy.stats import gamma as gamma_distribution

from secateur.errors import InvalidArgumentError, NotNestedError
from secateur.reduction import (
    NormalGamma,
    beta_delta_f,
    dirichlet_delta_f,
    dirichlet_reduced_posterior,
    gamma_delta_f,
    normal_gamma_delta_f,
    normal_gamma_reduced_posterior,
    regression_log_evidence,
    regression_posterior,
)
from secateur.reduction.conjugate import log_rising

FLOAT64 = torch.float64


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=FLOAT64)


concentration = st.floats(0.05, 50)


@given(
    st.lists(st.tuples(concentration, concentration, st.integers(0, 30)), min_size=2, max_size=5).filter(
        lambda rows: sum(row[2] for row in rows) > 0
    )
)
def test_dirichlet_is_the_ratio_of_exact_multinomial_evidences(rows: list[tuple[float, float, int]]) -> None:
    prior, reduced, counts = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    number = int(counts.sum())
    expected = dirichlet_multinomial(reduced, number).logpmf(counts.astype(int)) - dirichlet_multinomial(
        prior, number
    ).logpmf(counts.astype(int))
    got = dirichlet_delta_f(tensor(*(prior + counts)), prior=tensor(*prior), reduced=tensor(*reduced))
    assert got.item() == pytest.approx(expected, abs=1e-10)


def log_beta(a: np.ndarray) -> np.ndarray:
    return gammaln(a).sum(-1) - gammaln(a.sum(-1))


def test_formula_level_transcription_on_random_draws() -> None:
    """The log of a ratio of multivariate Beta functions, as the neuroimaging literature writes it."""
    rng = np.random.default_rng(0)
    prior, reduced = rng.gamma(1, 3, (200, 6)) + 0.1, rng.gamma(1, 3, (200, 6)) + 0.1
    posterior = prior + rng.gamma(1, 20, (200, 6))
    published = (
        log_beta(posterior) + log_beta(reduced) - log_beta(prior) - log_beta(posterior + reduced - prior)
    )
    got = dirichlet_delta_f(
        torch.from_numpy(posterior), prior=torch.from_numpy(prior), reduced=torch.from_numpy(reduced)
    )
    np.testing.assert_allclose(got.numpy(), -published, rtol=0, atol=1e-10)  # the opposite sign convention


def test_ruling_a_category_out_is_the_limit_of_vanishing_concentration() -> None:
    posterior, prior = tensor(8.0, 1.5, 3.0), tensor(1.0, 1.5, 1.0)
    exact = dirichlet_delta_f(posterior, prior=prior, reduced=tensor(1.0, 0.0, 1.0))
    near = [
        dirichlet_delta_f(posterior, prior=prior, reduced=tensor(1.0, 10.0**-k, 1.0)).sub(exact).abs().item()
        for k in (2, 4, 6)
    ]
    assert all(after < before / 50 for before, after in itertools.pairwise(near))
    assert dirichlet_delta_f(posterior, prior=prior, reduced=tensor(0.0, 1.0, 1.0)).item() == -math.inf
    after = dirichlet_reduced_posterior(posterior, prior=prior, reduced=tensor(1.0, 0.0, 1.0))
    torch.testing.assert_close(after, tensor(8.0, 0.0, 3.0))


@given(concentration, concentration, concentration, concentration, st.integers(0, 40), st.integers(0, 40))
def test_beta_is_the_ratio_of_exact_binomial_evidences(
    a: float, b: float, a1: float, b1: float, wins: int, losses: int
) -> None:
    got = beta_delta_f(a + wins, b + losses, prior_alpha=a, prior_beta=b, reduced_alpha=a1, reduced_beta=b1)
    expected = betabinom(wins + losses, a1, b1).logpmf(wins) - betabinom(wins + losses, a, b).logpmf(wins)
    assert got.item() == pytest.approx(expected, abs=1e-9)


@given(concentration, concentration, concentration, concentration, st.integers(0, 40), st.floats(0.1, 20))
def test_gamma_is_the_ratio_of_exact_poisson_evidences(
    a: float, b: float, a1: float, b1: float, events: int, exposure: float
) -> None:
    got = gamma_delta_f(
        a + events,
        b + exposure,
        prior_concentration=a,
        prior_rate=b,
        reduced_concentration=a1,
        reduced_rate=b1,
    )
    expected = nbinom(a1, b1 / (b1 + exposure)).logpmf(events) - nbinom(a, b / (b + exposure)).logpmf(events)
    assert got.item() == pytest.approx(expected, abs=1e-9)


def test_beta_and_gamma_agree_with_quadrature() -> None:
    q, p, r = beta_distribution(7.5, 3.0), beta_distribution(2.0, 1.5), beta_distribution(4.0, 4.5)
    ratio, _ = quad(lambda t: q.pdf(t) * r.pdf(t) / p.pdf(t), 0, 1, epsabs=0, epsrel=1e-11)
    got = beta_delta_f(7.5, 3.0, prior_alpha=2.0, prior_beta=1.5, reduced_alpha=4.0, reduced_beta=4.5)
    assert got.item() == pytest.approx(math.log(ratio), abs=1e-9)
    gammas = [gamma_distribution(a, scale=1 / b) for a, b in ((6.0, 3.0), (1.5, 0.5), (2.5, 4.0))]
    ratio, _ = quad(
        lambda t: gammas[0].pdf(t) * gammas[2].pdf(t) / gammas[1].pdf(t), 1e-12, 40, epsrel=1e-11, limit=200
    )
    got = gamma_delta_f(
        6.0, 3.0, prior_concentration=1.5, prior_rate=0.5, reduced_concentration=2.5, reduced_rate=4.0
    )
    assert got.item() == pytest.approx(math.log(ratio), abs=1e-9)


@given(concentration, concentration, st.floats(0.05, 50), st.floats(0.05, 50))
def test_no_reduction_gives_zero(a: float, b: float, more: float, exposure: float) -> None:
    same = beta_delta_f(a + more, b, prior_alpha=a, prior_beta=b, reduced_alpha=a, reduced_beta=b)
    assert abs(same.item()) < 1e-12
    same = gamma_delta_f(
        a + more, b + exposure, prior_concentration=a, prior_rate=b, reduced_concentration=a, reduced_rate=b
    )
    assert abs(same.item()) < 1e-11


def test_log_rising_is_exact_over_a_hundred_decades() -> None:
    rng = np.random.default_rng(1)
    starts = 10.0 ** rng.uniform(-50, 50, 400)
    steps = 10.0 ** rng.uniform(-50, 50, 400)
    steps[::4] = rng.uniform(0, 20, 100)
    got = log_rising(torch.from_numpy(starts), torch.from_numpy(steps)).numpy()
    with mpmath.workdps(130):
        expected = [
            float(mpmath.loggamma(mpmath.mpf(a) + mpmath.mpf(n)) - mpmath.loggamma(mpmath.mpf(a)))
            for a, n in zip(starts, steps, strict=True)
        ]
    scale = 1 + np.abs(expected) + np.abs(np.log(starts)) + np.where(starts < 20, 0, steps)
    assert np.max(np.abs(got - expected) / scale) < 2e-14


def test_gradients() -> None:
    posterior, prior, reduced = (
        v.requires_grad_() for v in (tensor(30.0, 4.0, 2.0), tensor(1.0, 2.0, 0.5), tensor(20.0, 1.0, 3.0))
    )
    assert torch.autograd.gradcheck(
        lambda a, b, c: dirichlet_delta_f(a, prior=b, reduced=c), [posterior, prior, reduced]
    )
    ruled_out = torch.where(torch.tensor([False, False, True]), 0.0, reduced.detach()).requires_grad_()
    dirichlet_delta_f(tensor(30.0, 4.0, 0.5), prior=prior, reduced=ruled_out).backward()
    assert ruled_out.grad is not None
    assert ruled_out.grad.isfinite().all()


def test_bad_concentrations_name_the_argument() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"prior must be positive and finite, got 0 at index \(1,\)"
    ):
        dirichlet_delta_f(tensor(2.0, 3.0), prior=tensor(1.0, 0.0), reduced=tensor(1.0, 1.0))
    with pytest.raises(NotNestedError, match=r"reduced must be above .* got 0.5 at index \(0,\)"):
        dirichlet_delta_f(tensor(2.0, 3.0), prior=tensor(3.0, 1.0), reduced=tensor(0.5, 1.0))
    with pytest.raises(InvalidArgumentError, match=r"reduced must have a shape .* got \(3,\)"):
        dirichlet_delta_f(tensor(2.0, 3.0), prior=tensor(1.0, 1.0), reduced=tensor(1.0, 1.0, 1.0))
    with pytest.raises(NotNestedError, match="reduced_rate"):
        gamma_delta_f(
            2.0, 1.0, prior_concentration=1.0, prior_rate=3.0, reduced_concentration=1.0, reduced_rate=1.0
        )
    with pytest.raises(InvalidArgumentError, match=r"rate must be positive and finite, got nan"):
        gamma_delta_f(
            2.0,
            math.nan,
            prior_concentration=1.0,
            prior_rate=3.0,
            reduced_concentration=1.0,
            reduced_rate=1.0,
        )


def regression(
    seed: int, num_data: int = 30, size: int = 5
) -> tuple[torch.Tensor, torch.Tensor, NormalGamma]:
    """Correlated regressors, two of them idle, and a correlated prior away from zero and one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=FLOAT64, generator=generator)

    inputs = normal(num_data, size) @ (torch.eye(size, dtype=FLOAT64) + 0.4 * normal(size, size))
    weights = normal(size) * torch.tensor([1, 0, 1, 0, 1])
    targets = inputs @ weights + 0.7 * normal(num_data)
    root = normal(size, size)
    prior = NormalGamma(
        0.3 * normal(size),
        root @ root.mT + 0.5 * torch.eye(size, dtype=FLOAT64),
        tensor(2.5)[0],
        tensor(1.7)[0],
    )
    return inputs, targets, prior


def test_regression_evidence_is_that_of_a_multivariate_t() -> None:
    inputs, targets, prior = regression(0)
    covariance = torch.eye(30, dtype=FLOAT64) + inputs @ torch.linalg.inv(prior.precision) @ inputs.mT
    scale = prior.rate / prior.concentration * covariance
    expected = multivariate_t(
        (inputs @ prior.mean).numpy(), scale.numpy(), df=2 * prior.concentration.item()
    ).logpdf(targets.numpy())
    assert regression_log_evidence(inputs, targets, prior=prior).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    "dropped", [pins for k in range(1, 6) for pins in itertools.combinations(range(5), k)][::3]
)
def test_dropping_regressors_changes_the_exact_evidence_by_delta_f(dropped: tuple[int, ...]) -> None:
    inputs, targets, prior = regression(len(dropped))
    kept = [i for i in range(5) if i not in dropped]
    reduced_precision = 2 * prior.precision
    small_prior = NormalGamma(
        tensor(*[0.1] * 5)[kept], reduced_precision[kept][:, kept], tensor(3.0)[0], tensor(1.1)[0]
    )
    pinned_at = 0.1
    pinned = reduced_precision.clone()
    pinned[list(dropped), list(dropped)] = math.inf
    reduced = NormalGamma(torch.full((5,), pinned_at, dtype=FLOAT64), pinned, tensor(3.0)[0], tensor(1.1)[0])

    remaining = targets - pinned_at * inputs[:, list(dropped)].sum(-1)
    if kept:
        without = regression_log_evidence(inputs[:, kept], remaining, prior=small_prior)
    else:
        shape = multivariate_t(np.zeros(30), 1.1 / 3.0 * np.eye(30), df=6.0)
        without = torch.tensor(shape.logpdf(remaining.numpy()), dtype=FLOAT64)
    expected = without - regression_log_evidence(inputs, targets, prior=prior)
    posterior = regression_posterior(inputs, targets, prior=prior)
    got = normal_gamma_delta_f(posterior, prior=prior, reduced=reduced)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)

    after = normal_gamma_reduced_posterior(posterior, prior=prior, reduced=reduced)
    if kept:
        direct = regression_posterior(inputs[:, kept], remaining, prior=small_prior)
        torch.testing.assert_close(after.mean[kept], direct.mean)
        torch.testing.assert_close(after.precision[kept][:, kept], direct.precision)
        torch.testing.assert_close(after.rate, direct.rate)
        torch.testing.assert_close(after.concentration, direct.concentration)


def test_a_known_noise_precision_is_the_dense_gaussian() -> None:
    """As the Gamma prior closes around one noise precision, the Gaussian case must come out."""
    from secateur.reduction import dense_delta_f

    inputs, targets, prior = regression(3)
    tau = 1.6
    known = NormalGamma(prior.mean, prior.precision, tensor(1e9)[0], tensor(1e9 / tau)[0])
    reduced = NormalGamma(prior.mean, 3 * prior.precision, known.concentration, known.rate)
    posterior = regression_posterior(inputs, targets, prior=known)
    got = normal_gamma_delta_f(posterior, prior=known, reduced=reduced)
    expected = dense_delta_f(
        posterior.mean,
        tau * posterior.precision,
        prior_mean=prior.mean,
        prior_precision=tau * prior.precision,
        reduced_mean=prior.mean,
        reduced_precision=3 * tau * prior.precision,
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_normal_gamma_is_batched_and_names_bad_parts() -> None:
    problems = [regression(seed) for seed in range(3)]
    inputs, targets = (torch.stack([problem[i] for problem in problems]) for i in (0, 1))
    prior = problems[0][2]
    batch = NormalGamma(
        prior.mean.expand(3, 5),
        prior.precision.expand(3, 5, 5),
        prior.concentration.expand(3),
        prior.rate.expand(3),
    )
    posterior = regression_posterior(inputs, targets, prior=batch)
    reduced = NormalGamma(batch.mean, 2 * batch.precision, batch.concentration, batch.rate)
    together = normal_gamma_delta_f(posterior, prior=batch, reduced=reduced)
    evidences = [regression_log_evidence(inputs, targets, prior=p) for p in (reduced, batch)]
    torch.testing.assert_close(together, evidences[0] - evidences[1], rtol=0, atol=1e-10)

    bad = NormalGamma(batch.mean, batch.precision, batch.concentration, -batch.rate)
    with pytest.raises(
        InvalidArgumentError, match=r"reduced.rate must be positive and finite, got -1.7 at index \(0,\)"
    ):
        normal_gamma_delta_f(posterior, prior=batch, reduced=bad)


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
@pytest.mark.parametrize("count", [0.0, 3.0, 1e3, 1e5, 1e15, 1e20])
def test_large_counts_cost_no_digits(count: float, dtype: torch.dtype) -> None:
    """Under prior (1, 1) and reduced prior (2, 1), n successes give ln 2 (n + 1) / (n + 3)."""
    posterior = torch.tensor([1 + count, 2.0], dtype=dtype, requires_grad=True)
    got = dirichlet_delta_f(
        posterior, prior=torch.ones(2, dtype=dtype), reduced=torch.tensor([2.0, 1.0], dtype=dtype)
    )
    seen = posterior.detach().double()[0].item() - 1
    expected = math.log(2) + math.log1p(-2 / (seen + 3))
    assert got.item() == pytest.approx(expected, abs=60 * torch.finfo(dtype).eps)
    got.backward()
    assert posterior.grad is not None
    assert posterior.grad.isfinite().all()
    by_beta = beta_delta_f(
        posterior[0].detach(), 2.0, prior_alpha=1.0, prior_beta=1.0, reduced_alpha=2.0, reduced_beta=1.0
    )
    assert by_beta.item() == got.item()


@given(st.floats(-2, 16), st.floats(-2, 8), st.floats(-2, 8), st.floats(-3, 8), st.floats(-3, 8))
def test_gamma_evidence_over_many_decades(
    counts: float, shape: float, shape_after: float, rate: float, rate_after: float
) -> None:
    n, a0, a1, b0, b1 = (10.0**value for value in (counts, shape, shape_after, rate, rate_after))
    a, b = a0 + n, b0 + 2 * n
    got = gamma_delta_f(
        a, b, prior_concentration=a0, prior_rate=b0, reduced_concentration=a1, reduced_rate=b1
    ).item()
    with mpmath.workdps(60):
        n_, e_, a0_, b0_, a1_, b1_ = (mpmath.mpf(v) for v in (a, b, a0, b0, a1, b1))
        n_, e_ = n_ - a0_, e_ - b0_
        terms = [
            sign * term
            for sign, x, y in ((1, a1_, b1_), (-1, a0_, b0_))
            for term in (
                mpmath.loggamma(x + n_) - mpmath.loggamma(x),
                x * mpmath.log(y / (y + e_)),
                -n_ * mpmath.log(y + e_),
            )
        ]
        expected = mpmath.fsum(terms)
    # what rounding of the arguments alone may change: each parameter's share in the result
    scale = (a1 + a0) * (2 + math.log1p(n / min(b0, b1)) + abs(math.log(a + a1))) + abs(float(expected)) + 1
    assert abs(got - float(expected)) < 1e-13 * (scale + n * abs(math.log((b + b1 - b0) / b)))


def test_gamma_with_large_counts_is_exact() -> None:
    """A shape of one more and the same rates: delta_f = ln(A / a) - ln(B / b)."""
    for n in (1e5, 1e15, 1e20):
        got = gamma_delta_f(
            1 + n,
            1 + n,
            prior_concentration=1.0,
            prior_rate=1.0,
            reduced_concentration=2.0,
            reduced_rate=1.0,
        )
        assert got.item() == pytest.approx(0.0, abs=1e-13)
