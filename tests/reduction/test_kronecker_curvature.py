"""Kronecker curvature under one prior, against dense algebra: solutions, spreads, groups of any form."""

import pytest
import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction import kronecker_curvature
from secateur.reduction.kronecker_curvature import (
    KroneckerCovariance,
    curvature_product,
    curvature_root,
    whole_rows_and_columns,
)

PRIOR = 0.3
N, M = 5, 6


def covariance(factors: tuple[Tensor, Tensor], present: Tensor | None = None) -> KroneckerCovariance:
    present = torch.ones(N, M, dtype=torch.bool) if present is None else present
    return KroneckerCovariance(*factors, PRIOR, rows=present.any(-1), columns=present.any(-2))


def test_the_product_is_that_with_the_dense_precision(factors, dense, generator):
    matrix = torch.randn(N, M, dtype=torch.float64, generator=generator)
    expected = (dense @ matrix.reshape(-1)).reshape(N, M)
    torch.testing.assert_close(curvature_product(*factors, PRIOR, matrix), expected)


def test_within_groups_of_any_form(factors, dense, generator, monkeypatch):
    """In a row, in a column, scattered; also where few entries are worked on at a time."""
    inverse = torch.linalg.inv(dense)
    index = torch.arange(N * M).reshape(N, M)
    forms = {
        "rows": index[:, :4],
        "columns": index.T[:, :3],
        "scattered": torch.randperm(N * M, generator=generator)[:28].reshape(4, 7),
        "singles": index.reshape(-1, 1),
    }
    for chunk in (kronecker_curvature.CHUNK_ENTRIES, 50):
        monkeypatch.setattr(kronecker_curvature, "CHUNK_ENTRIES", chunk)
        for entries in forms.values():
            expected = inverse[entries.unsqueeze(-1), entries.unsqueeze(-2)]
            torch.testing.assert_close(covariance(factors).within(entries), expected)


def test_whole_rows_that_are_out_leave_a_product(factors, dense, generator):
    rows, columns = torch.tensor([1, 0, 1, 1, 0]).bool(), torch.tensor([1, 1, 0, 1, 1, 1]).bool()
    present = rows.unsqueeze(-1) & columns
    found = covariance(factors, present)
    assert torch.equal(found.present, present)
    keep = present.reshape(-1)
    inverse = torch.linalg.inv(dense[keep][:, keep])
    torch.testing.assert_close(found.variance()[present], inverse.diagonal())
    assert (found.variance()[~present] == 0).all()
    torch.testing.assert_close(found.log_determinant(), torch.logdet(dense[keep][:, keep]))
    matrix = torch.randn(N, M, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(found.solve(matrix)[present], inverse @ matrix[present])


def test_what_is_whole_is_told_from_what_is_not():
    rows, columns = torch.tensor([True, False, True]), torch.tensor([False, True])
    found = whole_rows_and_columns(rows.unsqueeze(-1) & columns)
    assert found is not None
    assert torch.equal(found[0], rows)
    assert torch.equal(found[1], columns)
    assert whole_rows_and_columns(torch.eye(2, dtype=torch.bool)) is None
    nothing = whole_rows_and_columns(torch.zeros(2, 3, dtype=torch.bool))
    assert nothing is not None
    assert not nothing[0].any()


def test_the_root_of_a_curvature_squares_to_it(factors):
    root = curvature_root(factors[0])
    torch.testing.assert_close(root @ root.T, factors[0])


def test_a_group_too_large_for_its_covariance_is_refused(factors, monkeypatch):
    monkeypatch.setattr(kronecker_curvature, "CHUNK_ENTRIES", 16)
    mean, prior = torch.ones(2, N, M, dtype=torch.float64)
    labels = torch.full((N, M), -1)
    labels[:2, :3] = 0
    with pytest.raises(InvalidArgumentError, match="at most 4 entries, got one of 6"):
        covariance(factors).group_delta_f(mean, labels, 1, prior_precision=PRIOR * prior)


def test_curvature_with_a_negative_eigenvalue_is_refused(factors):
    with pytest.raises(InvalidArgumentError, match="row_curvature must be positive semi-definite"):
        covariance((-factors[0], factors[1]))
