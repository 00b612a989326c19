"""Independent rows against the dense covariance that they make together, a few rows at a time."""

import pytest
import torch

from secateur.reduction import matrix_covariance, row_covariance
from secateur.reduction.matrix_covariance import DenseCovariance, equal_groups
from secateur.reduction.row_covariance import RowCovariance

N, M = 4, 5


@pytest.fixture(params=[matrix_covariance.CHUNK_ENTRIES, 60], ids=["at once", "two rows at a time"])
def pair(request, generator, monkeypatch) -> tuple[RowCovariance, DenseCovariance]:
    monkeypatch.setattr(row_covariance, "CHUNK_ENTRIES", request.param)
    roots = torch.randn(N, M, M + 1, dtype=torch.float64, generator=generator)
    precision = roots @ roots.mT
    present = torch.rand(N, M, generator=generator) > 0.3
    keep = present.reshape(-1)
    dense = torch.block_diag(*precision)[keep][:, keep]
    return RowCovariance(present, lambda rows: precision[rows]), DenseCovariance(present, dense)


def test_everything_is_as_the_dense_covariance_has_it(pair, generator):
    found, expected = pair
    matrix = torch.randn(N, M, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(found.variance(), expected.variance())
    torch.testing.assert_close(found.solve(matrix), expected.solve(matrix))
    torch.testing.assert_close(found.log_determinant(), expected.log_determinant())
    labels = torch.arange(N * M).reshape(N, M) % 3 - 1
    prior = torch.full((N, M), 0.4, dtype=torch.float64)
    for groups, entries in equal_groups(labels, expected.present, 2):
        assert len(groups) == len(entries)
        torch.testing.assert_close(found.within(entries), expected.within(entries))
    torch.testing.assert_close(
        found.group_delta_f(matrix, labels, 3, prior_precision=prior),
        expected.group_delta_f(matrix, labels, 3, prior_precision=prior),
        equal_nan=True,
    )


def test_noise_becomes_draws_of_the_covariance(pair):
    """Deviations of unit vectors are the columns of a root of S."""
    found, expected = pair
    roots = torch.stack([
        found.deviation(unit.reshape(N, M)).reshape(-1) for unit in torch.eye(N * M, dtype=torch.float64)
    ])
    torch.testing.assert_close(
        (roots.T @ roots).diagonal().reshape(N, M), expected.variance(), rtol=1e-9, atol=1e-12
    )
