"""A small Kronecker curvature, and the same as a dense matrix."""

import pytest
import torch
from torch import Tensor

PRIOR = 0.3
N, M = 5, 6


@pytest.fixture
def factors(generator) -> tuple[Tensor, Tensor]:
    roots = [torch.randn(size, size - 1, dtype=torch.float64, generator=generator) for size in (N, M)]
    return roots[0] @ roots[0].T, roots[1] @ roots[1].T  # singular, as curvature is


@pytest.fixture
def dense(factors) -> Tensor:
    return torch.kron(*factors) + PRIOR * torch.eye(N * M, dtype=torch.float64)
