"""Every Gaussian structure against the dense one, and the dense one against quadrature and conditioning.

Prior variances differ from one and means from zero throughout: a public implementation of the row-wise
form is wrong exactly there.
"""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad
from scipy.stats import multivariate_normal
from torch import Tensor

from secateur.errors import InvalidArgumentError, NotNestedError
from secateur.reduction import (
    delta_f,
    dense_delta_f,
    dense_reduced_posterior,
    matrix_normal_delta_f,
    matrix_normal_reduced_posterior,
    reduced_posterior,
    rowwise_delta_f,
    rowwise_reduced_posterior,
)

FLOAT64 = torch.float64
DTYPES = [torch.float32, FLOAT64]
INF = math.inf


def positive_definite(generator: torch.Generator, *shape: int, floor: float = 0.5) -> Tensor:
    """A random symmetric positive definite batch with eigenvalues above the floor."""
    root = torch.randn(*shape, shape[-1], dtype=FLOAT64, generator=generator)
    return root @ root.mT + floor * torch.eye(shape[-1], dtype=FLOAT64)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT64, generator=generator)


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, dtype=FLOAT64, generator=generator)


def test_dense_agrees_with_quadrature_in_two_dimensions(generator: torch.Generator) -> None:
    prior = positive_definite(generator, 2)
    precision = prior + positive_definite(generator, 2)
    reduced = prior + positive_definite(generator, 2)
    m, m0, r0 = normal(generator, 2), normal(generator, 2), normal(generator, 2)
    keywords = {
        "prior_mean": m0,
        "prior_precision": prior,
        "reduced_mean": r0,
        "reduced_precision": reduced,
    }
    q, p, r = (
        multivariate_normal(mu.numpy(), np.linalg.inv(matrix.numpy()))
        for mu, matrix in ((m, precision), (m0, prior), (r0, reduced))
    )
    mean, after = dense_reduced_posterior(m, precision, **keywords)
    half_width = 9 * torch.linalg.inv(after).diagonal().sqrt()
    low, high = (mean - half_width).tolist(), (mean + half_width).tolist()

    def ratio(y: float, x: float) -> float:
        return math.exp(q.logpdf([x, y]) + r.logpdf([x, y]) - p.logpdf([x, y]))

    evidence, _ = dblquad(ratio, low[0], high[0], low[1], high[1], epsabs=0, epsrel=1e-9)
    assert dense_delta_f(m, precision, **keywords).item() == pytest.approx(math.log(evidence), abs=1e-8)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_formula_level_transcription_on_random_draws(size: int, generator: torch.Generator) -> None:
    """The reference formula of the literature, term by term, with covariances as it is stated there."""
    prior = positive_definite(generator, 50, size)
    precision, reduced = (
        prior + positive_definite(generator, 50, size),
        prior + positive_definite(generator, 50, size),
    )
    m, m0, r0 = normal(generator, 3, 50, size)
    keywords = {"prior_mean": m0, "prior_precision": prior, "reduced_mean": r0, "reduced_precision": reduced}
    got, (mean, after) = (
        dense_delta_f(m, precision, **keywords),
        dense_reduced_posterior(m, precision, **keywords),
    )
    for i in range(50):
        covariances = [np.linalg.inv(v[i].numpy()) for v in (precision, prior, reduced)]
        p, p0, r = (np.linalg.inv(covariance) for covariance in covariances)
        p1 = p + r - p0
        a, a0, b0 = m[i].numpy(), m0[i].numpy(), r0[i].numpy()
        a1 = np.linalg.solve(p1, p @ a + r @ b0 - p0 @ a0)
        volume = (
            np.linalg.slogdet(p)[1]
            + np.linalg.slogdet(r)[1]
            - np.linalg.slogdet(p0)[1]
            - np.linalg.slogdet(p1)[1]
        )
        misfit = a @ p @ a + b0 @ r @ b0 - a0 @ p0 @ a0 - a1 @ p1 @ a1
        assert got[i].item() == pytest.approx(0.5 * (volume - misfit), abs=1e-8)
        np.testing.assert_allclose(mean[i].numpy(), a1, atol=1e-8)
        np.testing.assert_allclose(after[i].numpy(), p1, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("pins", [pins for k in range(5) for pins in itertools.combinations(range(4), k)])
def test_point_masses_on_any_subset_equal_conditioning_by_hand(
    pins: tuple[int, ...], generator: torch.Generator
) -> None:
    """delta_f = ln q(r_S) / p(r_S) and then the Gaussian case of what is left, given w_S = r_S."""
    prior = positive_definite(generator, 4)
    precision, wide = prior + positive_definite(generator, 4), prior + positive_definite(generator, 4)
    m, m0, r0 = normal(generator, 4), normal(generator, 4), normal(generator, 4)
    s, f = list(pins), [i for i in range(4) if i not in pins]
    reduced = wide.clone()
    reduced[s, :] = math.nan  # rows and columns beside a pin are not read
    reduced[:, s] = math.nan
    reduced[s, s] = INF

    expected = torch.zeros((), dtype=FLOAT64)
    m_given, m0_given = m, m0
    if s:
        covariance, prior_covariance = torch.linalg.inv(precision), torch.linalg.inv(prior)
        block = np.ix_(s, s)
        log_q = multivariate_normal(m[s].numpy(), covariance.numpy()[block]).logpdf(r0[s].numpy())
        log_p = multivariate_normal(m0[s].numpy(), prior_covariance.numpy()[block]).logpdf(r0[s].numpy())
        expected = torch.tensor(log_q - log_p, dtype=FLOAT64)
        gain = torch.linalg.solve(precision[f][:, f], precision[f][:, s] @ (r0[s] - m[s]))
        prior_gain = torch.linalg.solve(prior[f][:, f], prior[f][:, s] @ (r0[s] - m0[s]))
        m_given, m0_given = m.clone(), m0.clone()
        m_given[f], m0_given[f] = m[f] - gain, m0[f] - prior_gain
    if f:
        rest = {
            "prior_mean": m0_given[f],
            "prior_precision": prior[f][:, f],
            "reduced_mean": r0[f],
            "reduced_precision": wide[f][:, f],
        }
        expected = expected + dense_delta_f(m_given[f], precision[f][:, f], **rest)

    keywords = {
        "prior_mean": m0,
        "prior_precision": prior,
        "reduced_mean": r0,
        "reduced_precision": reduced,
    }
    torch.testing.assert_close(dense_delta_f(m, precision, **keywords), expected, rtol=0, atol=1e-10)
    mean, after = dense_reduced_posterior(m, precision, **keywords)
    assert torch.equal(mean[s], r0[s])
    assert (after.diagonal()[s] == INF).all()
    if s and f:
        assert (after[f][:, s] == 0).all()
    if f:
        expected_mean, expected_after = dense_reduced_posterior(m_given[f], precision[f][:, f], **rest)
        torch.testing.assert_close(mean[f], expected_mean)
        torch.testing.assert_close(after[f][:, f], expected_after)


def test_a_narrowing_gaussian_tends_to_the_point_mass(generator: torch.Generator) -> None:
    prior = positive_definite(generator, 3)
    precision, m = prior + positive_definite(generator, 3), normal(generator, 3)

    def pinned_to(value: float) -> Tensor:
        diagonal = torch.diag(torch.tensor([0.0, value, 0.0], dtype=FLOAT64))
        free = torch.diag(torch.tensor([1.0, 0.0, 1.0], dtype=FLOAT64))
        return dense_delta_f(
            m,
            precision,
            prior_precision=prior,
            reduced_precision=free @ prior @ free + diagonal,
            reduced_mean=0.2,
        )

    limit = pinned_to(INF)
    gaps = [(pinned_to(10.0**k) - limit).abs().item() for k in (2, 4, 6, 8)]
    assert all(after < before / 50 for before, after in itertools.pairwise(gaps))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pinned", [False, True])
def test_mean_field_is_the_diagonal_of_the_dense(
    dtype: torch.dtype, pinned: bool, generator: torch.Generator
) -> None:
    p0, m, m0, r0 = uniform(generator, 0.2, 5, 6), *normal(generator, 3, 6)
    p, r = p0 + uniform(generator, 0, 50, 6), p0 * uniform(generator, 0.5, 20, 6)
    if pinned:
        r[::2] = INF
    p0, p, r, m, m0, r0 = (v.to(dtype) for v in (p0, p, r, m, m0, r0))
    per_weight = {"prior_precision": p0, "reduced_precision": r, "prior_mean": m0, "reduced_mean": r0}
    dense = per_weight | {"prior_precision": p0.diag(), "reduced_precision": r.diag()}
    tolerance = {"rtol": 1e-5, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 0.0, "atol": 1e-10}
    torch.testing.assert_close(
        delta_f(m, p, **per_weight).sum(), dense_delta_f(m, p.diag(), **dense), **tolerance
    )
    mean, after = reduced_posterior(m, p, **per_weight)
    dense_mean, dense_after = dense_reduced_posterior(m, p.diag(), **dense)
    torch.testing.assert_close(mean, dense_mean)
    torch.testing.assert_close(after, dense_after.diagonal())


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_row_is_a_dense_problem(dtype: torch.dtype, generator: torch.Generator) -> None:
    p0 = uniform(generator, 0.2, 5, 2, 3, 4)
    precision = torch.diag_embed(p0) + positive_definite(generator, 2, 3, 4)
    m, m0, r0 = normal(generator, 3, 2, 3, 4)
    r = 3 * p0
    r[0, 1, 2] = r[1, 2, :] = INF
    m, precision, p0, r, m0, r0 = (v.to(dtype) for v in (m, precision, p0, r, m0, r0))
    keywords = {"prior_precision": p0, "reduced_precision": r, "prior_mean": m0, "reduced_mean": r0}
    got = rowwise_delta_f(m, precision, **keywords)
    mean, after = rowwise_reduced_posterior(m, precision, **keywords)
    assert got.shape == (2, 3)
    for b, row in itertools.product(range(2), range(3)):
        dense = {
            "prior_precision": p0[b, row].diag(),
            "reduced_precision": r[b, row].diag(),
            "prior_mean": m0[b, row],
            "reduced_mean": r0[b, row],
        }
        torch.testing.assert_close(got[b, row], dense_delta_f(m[b, row], precision[b, row], **dense))
        one_mean, one_after = dense_reduced_posterior(m[b, row], precision[b, row], **dense)
        torch.testing.assert_close(mean[b, row], one_mean)
        torch.testing.assert_close(after[b, row], one_after)


def test_diagonal_rows_are_the_mean_field_at_variances_other_than_one(generator: torch.Generator) -> None:
    """The constant a public implementation gets wrong: sum ln(var) where half of it is right."""
    p, m = uniform(generator, 1, 9, 2, 4), normal(generator, 2, 4)
    for prior in (0.25, 0.5, 4.0):
        torch.testing.assert_close(
            rowwise_delta_f(m, torch.diag_embed(p), prior_precision=prior),
            delta_f(m, p, prior_precision=prior).sum(-1),
        )


ROW_REDUCTIONS = {
    "whole": INF,
    "narrower": 9.0,
    "wider": 1.3,
    "per row": torch.tensor([4.0, 1.5, 30.0], dtype=FLOAT64),
    "one row out": torch.tensor([4.0, INF, 1.4], dtype=FLOAT64),
    "one row stays as it is": torch.tensor([INF, 1.5, INF], dtype=FLOAT64),
}


@pytest.mark.parametrize("reduced", ROW_REDUCTIONS.values(), ids=ROW_REDUCTIONS.keys())
@pytest.mark.parametrize(
    "prior", [1.5, torch.tensor([1.5, 0.6, 2.0], dtype=FLOAT64)], ids=["number", "per row"]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_matrix_normal_is_the_dense_of_its_kronecker_product(
    reduced: float | Tensor, prior: float | Tensor, dtype: torch.dtype, generator: torch.Generator
) -> None:
    rows, columns = positive_definite(generator, 3, floor=2.0), positive_definite(generator, 4, floor=1.0)
    m, m0, r0 = (0.3 * v for v in normal(generator, 3, 3, 4))
    m, rows, columns, m0, r0 = (v.to(dtype) for v in (m, rows, columns, m0, r0))
    prior = prior.to(dtype) if isinstance(prior, Tensor) else prior
    reduced = reduced.to(dtype) if isinstance(reduced, Tensor) else reduced
    keywords = {"prior_precision": prior, "reduced_precision": reduced, "prior_mean": m0, "reduced_mean": r0}
    got = matrix_normal_delta_f(m, rows, columns, **keywords)
    mean, after = matrix_normal_reduced_posterior(m, rows, columns, **keywords)

    def per_weight(v: float | Tensor) -> Tensor:
        return torch.as_tensor(v, dtype=dtype).expand(3).repeat_interleave(4).diag()

    precision = torch.kron(rows, columns)
    dense = {
        "prior_precision": per_weight(prior),
        "reduced_precision": per_weight(reduced),
        "prior_mean": m0.flatten(),
        "reduced_mean": r0.flatten(),
    }
    tolerance = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 0.0, "atol": 1e-10}
    torch.testing.assert_close(got, dense_delta_f(m.flatten(), precision, **dense), **tolerance)
    assert got.dtype == dtype
    dense_mean, dense_after = dense_reduced_posterior(m.flatten(), precision, **dense)
    torch.testing.assert_close(mean.flatten(), dense_mean, **tolerance)
    free = dense_after.diagonal() != INF
    covariance = torch.zeros_like(dense_after)
    covariance[free.nonzero(), free.nonzero().T] = torch.linalg.inv(dense_after[free][:, free])
    torch.testing.assert_close(after.variance().flatten(), covariance.diagonal(), **tolerance)
    torch.testing.assert_close(after.solve(m).flatten(), covariance @ m.flatten(), **tolerance)


def test_diagonal_factors_are_the_mean_field(generator: torch.Generator) -> None:
    rows, columns, m = uniform(generator, 1, 5, 3), uniform(generator, 1, 5, 4), normal(generator, 3, 4)
    for reduced in (INF, 7.0):
        torch.testing.assert_close(
            matrix_normal_delta_f(
                m, rows.diag(), columns.diag(), prior_precision=0.7, reduced_precision=reduced
            ),
            delta_f(m, torch.outer(rows, columns), prior_precision=0.7, reduced_precision=reduced).sum(),
        )


def test_batches_are_independent_problems(generator: torch.Generator) -> None:
    rows, columns = positive_definite(generator, 5, 3), positive_definite(generator, 4)
    m, reduced = normal(generator, 5, 3, 4), uniform(generator, 3, 9, 5, 3)
    reduced[2, 1] = INF
    together = matrix_normal_delta_f(m, rows, columns, prior_precision=0.3, reduced_precision=reduced)
    alone = [
        matrix_normal_delta_f(m[i], rows[i], columns, prior_precision=0.3, reduced_precision=reduced[i])
        for i in range(5)
    ]
    torch.testing.assert_close(together, torch.stack(alone))

    mean, after = matrix_normal_reduced_posterior(
        m, rows, columns, prior_precision=0.3, reduced_precision=reduced
    )
    for i in range(5):
        one_mean, one_after = matrix_normal_reduced_posterior(
            m[i], rows[i], columns, prior_precision=0.3, reduced_precision=reduced[i]
        )
        torch.testing.assert_close(mean[i], one_mean)
        torch.testing.assert_close(after.variance()[i], one_after.variance())

    precision = positive_definite(generator, 5, 4, floor=2.0)
    pins = torch.eye(5, 4, dtype=FLOAT64).bool()
    reduced = torch.diag_embed(torch.where(pins, INF, 3.0).to(FLOAT64))
    together = dense_delta_f(
        m[:, 0], precision, prior_precision=torch.eye(4, dtype=FLOAT64), reduced_precision=reduced
    )
    alone = [
        dense_delta_f(
            m[i, 0], precision[i], prior_precision=torch.eye(4, dtype=FLOAT64), reduced_precision=reduced[i]
        )
        for i in range(5)
    ]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("pinned", [False, True])
def test_gradients_of_dense_and_rowwise(pinned: bool, generator: torch.Generator) -> None:
    root, m = normal(generator, 3, 3).requires_grad_(), normal(generator, 3).requires_grad_()
    prior_root, r0 = normal(generator, 3, 3).requires_grad_(), normal(generator, 3).requires_grad_()
    pins = torch.tensor([pinned, False, False])

    def evidence(root: Tensor, m: Tensor, prior_root: Tensor, r0: Tensor) -> Tensor:
        prior = prior_root @ prior_root.mT + torch.eye(3, dtype=FLOAT64)
        precision = prior + root @ root.mT
        reduced = torch.where(torch.diag(pins), INF, 2 * prior)
        return dense_delta_f(m, precision, prior_precision=prior, reduced_precision=reduced, reduced_mean=r0)

    assert torch.autograd.gradcheck(evidence, [root, m, prior_root, r0])

    scale = uniform(generator, 1, 2, 3).requires_grad_()

    def rowwise(root: Tensor, m: Tensor, scale: Tensor, r0: Tensor) -> Tensor:
        precision = torch.diag(scale) + root @ root.mT
        reduced = torch.where(pins, INF, 2 * scale)
        return rowwise_delta_f(
            m[None], precision[None], prior_precision=scale, reduced_precision=reduced, reduced_mean=r0
        )

    assert torch.autograd.gradcheck(rowwise, [root, m, scale, r0])


@pytest.mark.parametrize("pins", [(), (1,), (0, 2), (0, 1, 2)])
def test_gradients_of_matrix_normal_also_where_eigenvalues_repeat(
    pins: tuple[int, ...], generator: torch.Generator
) -> None:
    rows, columns = torch.eye(3, dtype=FLOAT64), 2 * torch.eye(2, dtype=FLOAT64)  # all eigenvalues repeat
    leaves = [
        v.requires_grad_()
        for v in (
            rows,
            columns,
            normal(generator, 3, 2),
            torch.full((3,), 1.3, dtype=FLOAT64),
            normal(generator, 3, 2),
        )
    ]
    pinned = torch.tensor([i in pins for i in range(3)])

    def evidence(rows: Tensor, columns: Tensor, m: Tensor, prior: Tensor, r0: Tensor) -> Tensor:
        return matrix_normal_delta_f(
            m,
            rows @ rows.mT,
            columns @ columns.mT,
            prior_precision=prior,
            reduced_precision=torch.where(pinned, INF, 2 * prior),
            reduced_mean=r0,
        )

    assert torch.autograd.gradcheck(evidence, leaves)


def test_no_reduction_gives_zero_and_two_steps_equal_one(generator: torch.Generator) -> None:
    prior = positive_definite(generator, 4)
    precision, m, m0 = prior + positive_definite(generator, 4), normal(generator, 4), normal(generator, 4)
    nothing = dense_delta_f(
        m, precision, prior_precision=prior, prior_mean=m0, reduced_precision=prior, reduced_mean=m0
    )
    assert abs(nothing.item()) < 1e-12
    rows, columns = positive_definite(generator, 4), positive_definite(generator, 3)
    mean = normal(generator, 4, 3)
    kept = matrix_normal_delta_f(mean, rows, columns, prior_precision=0.2, reduced_precision=0.2)
    assert abs(kept.item()) < 1e-12

    half, last = prior + positive_definite(generator, 4), prior + positive_definite(generator, 4)
    last[2, :] = last[:, 2] = 0
    last[2, 2] = INF
    r0, t0 = normal(generator, 4), normal(generator, 4)
    first = {"prior_precision": prior, "prior_mean": m0, "reduced_precision": half, "reduced_mean": r0}
    second = {"prior_precision": half, "prior_mean": r0, "reduced_precision": last, "reduced_mean": t0}
    whole = first | {"reduced_precision": last, "reduced_mean": t0}
    halfway = dense_reduced_posterior(m, precision, **first)
    stepwise = dense_delta_f(m, precision, **first) + dense_delta_f(*halfway, **second)
    torch.testing.assert_close(stepwise, dense_delta_f(m, precision, **whole), rtol=1e-11, atol=1e-11)
    for one, other in zip(
        dense_reduced_posterior(*halfway, **second),
        dense_reduced_posterior(m, precision, **whole),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_invariant_to_permutation_and_rescaling(generator: torch.Generator) -> None:
    prior = positive_definite(generator, 4)
    precision, m, r0 = prior + positive_definite(generator, 4), normal(generator, 4), normal(generator, 4)
    reduced = 3 * prior
    reduced[1, 1] = INF
    original = dense_delta_f(m, precision, prior_precision=prior, reduced_precision=reduced, reduced_mean=r0)
    order = [2, 0, 3, 1]
    permuted = [v[order][:, order] for v in (precision, prior, reduced)]
    torch.testing.assert_close(
        dense_delta_f(
            m[order],
            permuted[0],
            prior_precision=permuted[1],
            reduced_precision=permuted[2],
            reduced_mean=r0[order],
        ),
        original,
    )
    scale = 10.0 ** uniform(generator, -25, 25, 4)  # each weight in units of its own, over fifty decades
    rescaled = [v / scale / scale[:, None] for v in (precision, prior, reduced)]
    got = dense_delta_f(
        m * scale,
        rescaled[0],
        prior_precision=rescaled[1],
        reduced_precision=rescaled[2],
        reduced_mean=r0 * scale,
    )
    torch.testing.assert_close(got, original, rtol=1e-9, atol=1e-9)


def test_bad_matrices_name_the_argument_and_the_index(generator: torch.Generator) -> None:
    good = positive_definite(generator, 2, 3)
    mean = torch.zeros(2, 3, dtype=FLOAT64)
    prior = 0.1 * torch.eye(3, dtype=FLOAT64)

    def call(precision: Tensor, **changes: Tensor) -> Tensor:
        return dense_delta_f(
            mean, precision, **({"prior_precision": prior, "reduced_precision": 2 * prior} | changes)
        )

    bad = good.clone()
    bad[1, 2, 0] += 1
    with pytest.raises(
        InvalidArgumentError, match=r"^precision must be symmetric, got .* at index \(1, 0, 2\)"
    ):
        call(bad)
    bad = good.clone()
    bad[1, 1, 1] = -1.0
    with pytest.raises(
        InvalidArgumentError, match=r"^precision must be positive definite.*index \(1, 1, 1\)"
    ):
        call(bad)
    with pytest.raises(
        InvalidArgumentError, match=r"^prior_precision must be finite, got nan at index \(0, 0\)"
    ):
        call(good, prior_precision=prior * math.nan)
    with pytest.raises(NotNestedError, match=r"^reduced_precision must be large enough"):
        call(good, prior_precision=1e3 * torch.eye(3, dtype=FLOAT64), reduced_precision=prior)
    with pytest.raises(
        InvalidArgumentError, match=re.escape("precision must have shape (..., 3, 3), got (2, 2)")
    ):
        call(good[0, :2, :2])
    with pytest.raises(InvalidArgumentError, match=r"^reduced_mean must have a shape .* got \(2,\)"):
        call(good, reduced_mean=torch.zeros(2, dtype=FLOAT64))
    with pytest.raises(InvalidArgumentError, match=r"^mean must be finite, got inf at index \(1,\)"):
        dense_delta_f(torch.tensor([0.0, INF, 0.0]), good, prior_precision=prior, reduced_precision=prior)


def test_bad_rows_and_factors_name_the_argument(generator: torch.Generator) -> None:
    rows, columns = positive_definite(generator, 3), positive_definite(generator, 2)
    mean = torch.zeros(3, 2, dtype=FLOAT64)
    with pytest.raises(
        InvalidArgumentError, match=r"prior_precision must be positive and finite, got 0 at index \(1,\)"
    ):
        matrix_normal_delta_f(mean, rows, columns, prior_precision=torch.tensor([1.0, 0.0, 1.0]))
    with pytest.raises(InvalidArgumentError, match=r"column_precision must be positive definite"):
        matrix_normal_delta_f(mean, rows, -columns, prior_precision=1.0)
    with pytest.raises(
        InvalidArgumentError, match=re.escape("row_precision must have shape (..., 3, 3), got (2, 2)")
    ):
        matrix_normal_delta_f(mean, columns, columns, prior_precision=1.0)
    with pytest.raises(NotNestedError, match="reduced_precision"):
        matrix_normal_delta_f(mean, rows, columns, prior_precision=1e4, reduced_precision=1.0)
    with pytest.raises(InvalidArgumentError, match=r"reduced_precision must have a shape .* got \(2,\)"):
        matrix_normal_delta_f(mean, rows, columns, prior_precision=1.0, reduced_precision=torch.ones(2))
    with pytest.raises(
        InvalidArgumentError, match=r"reduced_precision must be positive .* got -1 at index \(0, 1\)"
    ):
        rowwise_delta_f(
            mean,
            columns.expand(3, 2, 2),
            prior_precision=1.0,
            reduced_precision=torch.tensor([[1.0, -1.0]] * 3, dtype=FLOAT64),
        )
    with pytest.raises(NotNestedError, match="reduced_precision"):
        rowwise_delta_f(mean, columns.expand(3, 2, 2), prior_precision=1e4, reduced_precision=1.0)


@pytest.mark.gpu
def test_structures_on_a_device_change_no_number(generator: torch.Generator) -> None:
    rows, columns, m = (
        positive_definite(generator, 3),
        positive_definite(generator, 4),
        normal(generator, 3, 4),
    )
    reduced = torch.tensor([2.0, INF, 3.0], dtype=FLOAT64)
    here = matrix_normal_delta_f(m, rows, columns, prior_precision=0.3, reduced_precision=reduced)
    there = matrix_normal_delta_f(
        m.cuda(), rows.cuda(), columns.cuda(), prior_precision=0.3, reduced_precision=reduced.cuda()
    )
    torch.testing.assert_close(there.cpu(), here)
