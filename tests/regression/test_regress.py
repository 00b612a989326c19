"""`secateur.regress` against exact evidence, refits and quadrature; units must not matter."""

import math
from itertools import product

import pandas
import pytest
import torch
from torch.autograd.functional import hessian

import secateur
from secateur.errors import DataError, InvalidArgumentError
from secateur.likelihoods import resolve
from secateur.reduction import NormalGamma, regression_log_evidence, search_subsets
from secateur.regression.models import INTERCEPT_PRECISION, NOISE_PRIOR, LaplaceModel
from secateur.regression.subsets import best_subsets

NUM_DATA = 80


def regressors(generator, number=4, num_data=NUM_DATA):
    return torch.randn(num_data, number, generator=generator, dtype=torch.float64)


def standardised(x):
    return (x - x.mean(0)) / x.std(0, correction=0)


def design(x):
    return torch.cat([torch.ones(len(x), 1, dtype=torch.float64), standardised(x)], 1)


def targets(kind, x, generator, strength=0.4):
    line = strength * x[:, 0] - 0.25 * strength * x[:, -1]
    if kind == "gaussian":
        return line + torch.randn(len(x), generator=generator, dtype=torch.float64)
    if kind == "bernoulli":
        return torch.bernoulli(line.sigmoid(), generator=generator)
    if kind == "poisson":
        return torch.poisson(4 * line.exp(), generator=generator)
    table = torch.stack([line, -line, torch.zeros_like(line)], 1).softmax(1)
    return table.multinomial(1, generator=generator)[:, 0]


def linear_log_evidence(x, y, kept):
    """Exact log evidence of linear regression on some of the standardised regressors."""
    columns = [0, *(1 + k for k, keep in enumerate(kept) if keep)]
    precision = torch.ones(len(columns), dtype=torch.float64)
    precision[0] = INTERCEPT_PRECISION
    noise = torch.tensor(NOISE_PRIOR, dtype=torch.float64)
    prior = NormalGamma(torch.zeros_like(precision), precision.diag(), noise, noise)
    return regression_log_evidence(design(x)[:, columns], standardised(y), prior=prior).item()


def laplace_log_evidence(kind, x, y, kept):
    """Log evidence of a refit to some of the standardised regressors, by Laplace's method from scratch."""
    columns = [0, *(1 + k for k, keep in enumerate(kept) if keep)]
    likelihood = resolve({"name": kind, **({"scale": y.mean().item()} if kind == "poisson" else {})})
    outputs = 3 if kind == "categorical" else 1
    data, labels = design(x)[:, columns], y if outputs > 1 else y[:, None]
    precision = torch.ones(len(columns), outputs, dtype=torch.float64)
    precision[0] = INTERCEPT_PRECISION

    def energy(weights):
        fit = likelihood.loss(data @ weights, labels).sum() + 0.5 * (precision * weights.square()).sum()
        return fit - 0.5 * (precision / (2 * math.pi)).log().sum()

    weights = torch.zeros(len(columns), outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=500, tolerance_grad=1e-11, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = energy(weights)
        value.backward()
        return value

    optimizer.step(closure)
    size = weights.numel()
    curvature = hessian(energy, weights.detach()).view(size, size)
    volume = 0.5 * size * math.log(2 * math.pi) - 0.5 * torch.logdet(curvature).item()
    return volume - energy(weights).item()


def test_linear_evidence_is_exact_for_every_subset(generator):
    x = regressors(generator)
    y = targets("gaussian", x, generator)
    found = secateur.regress(x, y, likelihood="gaussian")
    whole = linear_log_evidence(x, y, [True] * 4)
    subsets = found.search.removed.tolist()
    assert sorted(subsets) == sorted(map(list, product([False, True], repeat=4)))
    expected = [linear_log_evidence(x, y, [not gone for gone in each]) - whole for each in subsets]
    torch.testing.assert_close(
        found.search.delta_f, torch.tensor(expected, dtype=torch.float64), atol=1e-8, rtol=1e-8
    )
    alone = [linear_log_evidence(x, y, [k != gone for k in range(4)]) - whole for gone in range(4)]
    torch.testing.assert_close(found.delta_f, torch.tensor(alone, dtype=torch.float64), atol=1e-8, rtol=1e-8)
    weights = torch.tensor(expected, dtype=torch.float64).softmax(0)
    assert found.best.probability == pytest.approx(weights.max().item(), rel=1e-8)


@pytest.mark.parametrize("kind", ["bernoulli", "poisson", "categorical"])
def test_laplace_evidence_is_near_that_of_refits(kind, generator):
    x = regressors(generator, num_data=400)
    y = targets(kind, x, generator)
    found = secateur.regress(x, y, likelihood=kind)
    whole = laplace_log_evidence(kind, x, y, [True] * 4)
    alone = torch.tensor([
        laplace_log_evidence(kind, x, y, [k != gone for k in range(4)]) - whole for gone in range(4)
    ])
    # a Gaussian is exact in its middle: near for what hardly matters, and of one sign for what does
    torch.testing.assert_close(found.delta_f.float(), alone, atol=0.25, rtol=0.15)
    assert ((found.delta_f > 0) == (alone > 0)).all()


@pytest.mark.parametrize("kind", ["bernoulli", "poisson"])
def test_the_evidence_of_one_regressor_is_that_of_quadrature(kind, generator):
    x = regressors(generator, 1)
    y = targets(kind, x, generator, strength=0.15)
    found = secateur.regress(x, y, likelihood=kind)
    likelihood = resolve({"name": kind, **({"scale": y.mean().item()} if kind == "poisson" else {})})
    grid = torch.linspace(-3, 3, 301, dtype=torch.float64)
    step = (grid[1] - grid[0]).item()
    data = design(x)

    def log_joint(weights):
        outputs = weights @ data.T
        fit = (
            -likelihood
            .loss(outputs.reshape(-1, 1), y.repeat(len(weights))[:, None])
            .view(len(weights), -1)
            .sum(1)
        )
        precision = torch.tensor([INTERCEPT_PRECISION, 1.0], dtype=torch.float64)
        prior = 0.5 * (precision / (2 * math.pi)).log() - 0.5 * precision * weights.square()
        return fit, prior

    everywhere = torch.cartesian_prod(grid, grid)
    fit, prior = log_joint(everywhere)
    full = (fit + prior.sum(1)).logsumexp(0) + 2 * math.log(step)
    without = torch.stack([grid, torch.zeros_like(grid)], 1)
    fit, prior = log_joint(without)
    reduced = (fit + prior[:, 0]).logsumexp(0) + math.log(step)
    assert found.delta_f.item() == pytest.approx((reduced - full).item(), abs=0.05)


def test_standard_errors_are_those_of_least_squares_with_much_data(generator):
    x = 10 + 3 * torch.randn(5000, 2, generator=generator, dtype=torch.float64)
    y = 7 + x @ torch.tensor([2.0, -1.0], dtype=torch.float64) + torch.randn(5000, generator=generator)
    found = secateur.regress(x, y, likelihood="gaussian")
    whole = torch.cat([torch.ones(5000, 1, dtype=torch.float64), x], 1)
    solution = torch.linalg.lstsq(whole, y.double()).solution
    noise = (y - whole @ solution).square().sum() / (5000 - 3)
    errors = (noise * torch.linalg.inv(whole.T @ whole).diagonal()).sqrt()
    torch.testing.assert_close(
        torch.cat([found.intercept, found.coefficients[:, 0]]), solution, rtol=1e-2, atol=1e-3
    )
    torch.testing.assert_close(
        torch.cat([found.intercept_error, found.standard_errors[:, 0]]), errors, rtol=2e-2, atol=0
    )


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli", "poisson", "categorical"])
def test_units_of_regressors_and_targets_change_no_evidence(kind, generator):
    x = regressors(generator)
    y = targets(kind, x, generator)
    scale = torch.tensor([1.0, 1e3, 1e-3, 7.0], dtype=torch.float64)
    first = secateur.regress(x, y, likelihood=kind)
    unit = 1000.0 if kind == "gaussian" else 1
    second = secateur.regress(x * scale + 5, y * unit, likelihood=kind)
    torch.testing.assert_close(second.delta_f, first.delta_f, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        second.coefficients * scale[:, None] / unit, first.coefficients, rtol=1e-5, atol=1e-8
    )
    torch.testing.assert_close(second.predict(x * scale + 5) / unit, first.predict(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli", "poisson", "categorical"])
def test_what_matters_is_kept_by_name_and_the_table_says_so(kind, generator):
    x = regressors(generator)
    y = targets(kind, x, generator, strength=1.5)
    found = secateur.regress(
        pandas.DataFrame(x.numpy(), columns=["dose", "age", "noise", "hum"]), y, likelihood=kind
    )
    assert "dose" in found.best.names
    assert found.best_coefficients[[name not in found.best.names for name in found.names]].eq(0).all()
    assert found.keep_probability[0] > 0.99
    text = str(found)
    assert text.splitlines()[0].endswith("80 data, 4 regressors")
    assert "dose" in text
    assert f"Best of 16 subsets: {', '.join(found.best.names)}" in text
    if kind == "categorical":
        assert found.coefficients.sum(1).abs().max() < 1e-10


def test_two_classes_in_words_are_a_logistic_regression(generator):
    x = regressors(generator)
    y = targets("bernoulli", x, generator, strength=2.0)
    words = ["yes" if each else "no" for each in y.tolist()]
    found = secateur.regress(x, words)
    same = secateur.regress(x, y, likelihood="bernoulli")
    assert (found.likelihood.name, found.classes) == ("bernoulli", ("no", "yes"))
    torch.testing.assert_close(found.delta_f, same.delta_f)


def test_subsets_of_one_output_are_those_of_the_reduction_module(generator):
    x = regressors(generator)
    y = targets("bernoulli", x, generator)
    model = LaplaceModel.fit(design(x), y[:, None], resolve("bernoulli"), 1, 1.0)
    found = best_subsets(model, log_odds=1.0)
    marginal = torch.linalg.inv(model.covariance[1:, 1:])
    expected = search_subsets(
        model.mean[1:, 0], marginal, prior_precision=torch.eye(4, dtype=torch.float64), log_odds=1.0
    )
    torch.testing.assert_close(found.delta_f, expected.delta_f, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.keep_probability, expected.keep_probability, rtol=1e-8, atol=1e-8)


def test_many_regressors_of_several_classes_are_searched_greedily(generator):
    x = regressors(generator, 14)
    found = secateur.regress(x, targets("categorical", x, generator, strength=3.0), likelihood="categorical")
    assert found.search.method == "greedy"
    assert len(found.search.removed) == 15
    assert "x1" in found.best.names
    assert len(found.best.names) < 8


NAN = torch.tensor([[1.0, 2.0], [math.nan, 1.0], [0.5, 3.0], [1.0, 4.0]])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: secateur.regress(NAN, torch.arange(4.0)),
            DataError,
            "every row of 'x1', got 1 that are not",
        ),
        (
            lambda: secateur.regress(torch.ones(9, 1), torch.randn(9)),
            DataError,
            "a regressor that changes, got 'x1' of 1 in all rows",
        ),
        (lambda: secateur.regress(torch.randn(9, 2), torch.randn(8)), DataError, "one for each of 9 data"),
        (
            lambda: secateur.regress(torch.randn(9, 2), torch.randn(9), names=["a"]),
            InvalidArgumentError,
            "one for each of 2 regressors, got 1",
        ),
        (
            lambda: secateur.regress(torch.randn(9, 2), torch.randn(9), prior_precision=0.0),
            InvalidArgumentError,
            "prior_precision: expected a positive",
        ),
        (lambda: secateur.regress(torch.randn(9, 2), ["a"] * 9), DataError, "two classes at least"),
        (
            lambda: secateur.regress(torch.randn(9, 2), -torch.ones(9), likelihood="poisson"),
            DataError,
            "counts",
        ),
    ],
)
def test_bad_input_is_one_line(call, error, says):
    with pytest.raises(error, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_separable_classes_still_have_coefficients():
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    found = secateur.regress(x, (x[:, 0] > 0).double(), likelihood="bernoulli")
    assert found.coefficients.isfinite().all()
    assert found.delta_f.item() < -5


def test_linear_regression_survives_more_regressors_than_data(generator):
    x = torch.randn(12, 20, generator=generator)
    found = secateur.regress(x, x[:, 3] * 5 + 0.01 * torch.randn(12, generator=generator))
    assert found.search.method == "greedy"
    assert found.standard_errors.isfinite().all()
