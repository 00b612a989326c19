"""Systems in the entries of a matrix that are in, against dense algebra."""

import pytest
import torch
from torch import Tensor

from secateur.reduction.kronecker_curvature import curvature_product
from secateur.reduction.masked_solve import masked_minimum, masked_solve

PRIOR = 0.3
N, M = 5, 6


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])  # with either preconditioner
def test_a_masked_solution_is_that_of_the_block_that_is_in(share, factors, dense, generator):
    present = torch.rand(N, M, generator=generator) > share
    matrix = torch.randn(N, M, dtype=torch.float64, generator=generator)
    found = masked_solve(*factors, PRIOR, matrix, present=present, tolerance=1e-13)
    keep = present.reshape(-1)
    expected = torch.linalg.solve(dense[keep][:, keep], matrix.reshape(-1)[keep])
    torch.testing.assert_close(found[present], expected, rtol=1e-9, atol=1e-9)
    assert (found[~present] == 0).all()


def test_a_solution_of_nothing_is_nothing(factors):
    zero = torch.zeros(N, M, dtype=torch.float64)
    present = torch.ones(N, M, dtype=torch.bool)
    assert (masked_solve(*factors, PRIOR, zero, present=present) == 0).all()
    assert (masked_solve(*factors, PRIOR, zero + 1, present=~present) == 0).all()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_the_masked_minimum_is_that_of_the_dense_metric(share, factors, dense, generator):
    present = torch.rand(N, M, generator=generator) > share
    weights = torch.randn(N, M, dtype=torch.float64, generator=generator)
    found = masked_minimum(*factors, PRIOR, weights, present=present, tolerance=1e-12, max_steps=200)
    keep = present.reshape(-1)
    taken_over = torch.linalg.solve(dense[keep][:, keep], dense[keep][:, ~keep] @ weights.reshape(-1)[~keep])
    torch.testing.assert_close(found[present], weights[present] + taken_over, rtol=1e-8, atol=1e-8)
    assert (found[~present] == 0).all()


def test_rows_that_are_out_or_whole_do_not_disturb_the_others(factors, generator):
    weights = torch.randn(N, M, dtype=torch.float64, generator=generator)
    present = torch.rand(N, M, generator=generator) > 0.5
    present[0], present[1] = False, True
    found = masked_minimum(*factors, PRIOR, weights, present=present, tolerance=1e-12, max_steps=200)
    slope = curvature_product(*factors, PRIOR, found - weights)
    torch.testing.assert_close(slope[present], torch.zeros_like(slope[present]), atol=1e-7, rtol=0)


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_with_rows_first_the_same_steps_under_both_come_further(steps, generator):
    """Why the minimum is sought row by row first."""
    inputs = torch.randn(400, 60, generator=generator) @ torch.randn(60, 60, generator=generator)
    outputs = torch.randn(400, 40, generator=generator)
    columns, rows = inputs.T @ inputs / 400, outputs.T @ outputs
    weights = torch.randn(40, 60, generator=generator)
    present = torch.rand(40, 60, generator=generator) > 0.5

    def rise(moved: Tensor) -> float:
        return float(((moved - weights) * curvature_product(rows, columns, 0.0, moved - weights)).sum())

    stays = torch.where(present, weights, 0.0)
    wanted = curvature_product(rows, columns, 0.0, weights - stays)
    alone = stays + masked_solve(rows, columns, 1e-3, wanted, present=present, max_steps=steps)
    after_rows = masked_minimum(rows, columns, 1e-3, weights, present=present, max_steps=steps)
    assert rise(after_rows) < rise(alone) < rise(stays)
