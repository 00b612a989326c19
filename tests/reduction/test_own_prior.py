"""The own prior of a pruned layer against dense log determinants, maximised over the precision by scipy."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from secateur.reduction.own_prior import own_prior

N, M = 6, 7


def layer(generator: torch.Generator, *, scale: float = 30.0, rows: int = N, columns: int = M, share=0.6):
    """Weights with zeros, where they stay, curvatures of the rows, and that of the columns."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    root = normal(columns, columns + 2) * torch.linspace(0.1, 2, columns, dtype=torch.float64)[:, None]
    present = torch.rand(rows, columns, generator=generator) < share
    weights = torch.where(present, normal(rows, columns), 0.0)
    return weights, present, scale * normal(rows).exp(), root @ root.mT / columns


def dense_evidence(precision: float, weights: Tensor, present: Tensor, scale: Tensor, inner: Tensor) -> float:
    """-1/2 sum_i ln |(s_i A + pi I)_FF| + 1/2 n_F ln pi - 1/2 pi |W_F|^2."""
    total = 0.5 * int(present.sum()) * math.log(precision) - 0.5 * precision * float(weights.square().sum())
    for own, kept in zip(scale, present, strict=True):
        block = (own * inner)[kept][:, kept]
        total -= 0.5 * float(torch.logdet(block + precision * torch.eye(len(block), dtype=block.dtype)))
    return total


def maximum(*parts: Tensor) -> tuple[float, float]:
    found = minimize_scalar(
        lambda log: -dense_evidence(math.exp(log), *parts),
        bounds=(-25, 25),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return math.exp(found.x), -found.fun


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 30.0, 1e6])
def test_it_is_the_maximum_of_the_dense_evidence_where_all_rows_are_looked_at(generator, scale):
    parts = layer(generator, scale=scale)
    precision, evidence = maximum(*parts)
    found = own_prior(*parts, num_rows=N)
    assert found.precision == pytest.approx(precision, rel=1e-5)
    assert found.evidence == pytest.approx(evidence, rel=1e-8, abs=1e-9)
    assert found.evidence == pytest.approx(dense_evidence(found.precision, *parts), rel=1e-9, abs=1e-9)


def test_gamma_counts_the_directions_that_the_data_determine(generator):
    weights, present, scale, inner = layer(generator)
    found = own_prior(weights, present, scale, inner, num_rows=N)
    count = 0.0
    for own, kept in zip(scale, present, strict=True):
        block = (own * inner)[kept][:, kept]
        count += float(
            torch.trace(torch.linalg.solve(block + found.precision * torch.eye(len(block)), block))
        )
    assert found.gamma == pytest.approx(count, rel=1e-6)
    assert found.gamma == pytest.approx(found.precision * float(weights.square().sum()), rel=1e-6)
    assert 0 < found.gamma < int(present.sum())


def test_weights_that_are_tiny_beside_their_uncertainty_do_not_make_it_swing(generator):
    """A fixed point that is approached from both sides in turn: gamma falls as steeply as 1 / pi."""
    weights, present, scale, inner = layer(generator)
    weights = weights * 1e-6
    precision, evidence = maximum(weights, present, scale, inner)
    found = own_prior(weights, present, scale, inner, num_rows=N)
    assert found.precision == pytest.approx(precision, rel=1e-4)
    assert found.evidence == pytest.approx(evidence, rel=1e-6)


def test_a_few_rows_stand_for_all(generator):
    parts = layer(generator, rows=60, columns=20, share=0.5)
    precision, evidence = maximum(*parts)
    found = own_prior(*parts, num_rows=8)
    assert found.precision == pytest.approx(precision, rel=0.1)
    assert found.evidence == pytest.approx(evidence, rel=0.03)
    one = own_prior(*parts, num_rows=1)
    assert abs(one.evidence - evidence) < 0.1 * abs(evidence)


def test_rows_of_different_lengths_are_of_one_distribution_of_eigenvalues(generator):
    """With A = I every spectrum is the same, so one row says all about all rows."""
    weights, present, scale, _ = layer(generator)
    inner = torch.eye(M, dtype=torch.float64)
    _, evidence = maximum(weights, present, scale, inner)
    assert own_prior(weights, present, scale, inner, num_rows=1).evidence == pytest.approx(evidence, rel=1e-9)


def test_what_is_out_does_not_count(generator):
    weights, present, scale, inner = layer(generator)
    found = own_prior(weights, present, scale, inner)
    other = own_prior(torch.where(present, weights, 5.0), present, scale, inner)
    assert found == other


def test_it_ends_where_nothing_stays_or_nothing_is_known(generator):
    weights, present, scale, inner = layer(generator)
    none = own_prior(weights, torch.zeros_like(present), scale, inner)
    assert (none.gamma, none.evidence) == (0.0, 0.0)
    # no curvature: the prior is as wide as may be, and a network without data pays nothing for its weights
    flat = own_prior(weights, present, torch.zeros_like(scale), inner)
    assert flat.evidence == pytest.approx(0.0, abs=1e-5)
    # nothing but zeros: the narrowest prior there is, under which they cost nothing either
    zeros = own_prior(torch.zeros_like(weights), present, scale, inner)
    assert math.isfinite(zeros.precision)
    assert zeros.evidence == pytest.approx(0.0, abs=1e-5)


def test_float32_agrees_with_float64(generator):
    parts = layer(generator)
    single = own_prior(*(part.float() if part.is_floating_point() else part for part in parts))
    assert single.evidence == pytest.approx(own_prior(*parts).evidence, rel=1e-4)
