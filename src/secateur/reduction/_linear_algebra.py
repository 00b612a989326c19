"""Positive definite matrices in batches: factors with errors that name the argument, and masked blocks."""

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction._validation import first_index, require_finite

__all__ = ["cholesky", "identity_outside", "log_determinant", "quadratic", "require_symmetric", "solve"]


def require_symmetric(name: str, matrix: Tensor) -> None:
    """Demand finite and symmetric matrices.

    Args:
        name: The argument's name.
        matrix: Shape (*b, n, n).

    Raises:
        InvalidArgumentError: With the first entry that differs from its mirror image.
    """
    require_finite(name, matrix)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    allowed = torch.finfo(matrix.dtype).eps ** 0.5 * diagonal.unsqueeze(-1) * diagonal.unsqueeze(-2)
    differs = (matrix - matrix.mT).abs() > allowed
    if bool(differs.any()):
        index = first_index(differs)
        mirrored = (*index[:-2], index[-1], index[-2])
        raise InvalidArgumentError(
            f"{name} must be symmetric, got {matrix[index].item():g} at index {index} "
            f"and {matrix[mirrored].item():g} at index {mirrored}"
        )


def cholesky(
    name: str,
    matrix: Tensor,
    expected: str = "positive definite",
    error: type[InvalidArgumentError] = InvalidArgumentError,
) -> Tensor:
    """Return the lower Cholesky factor.

    Args:
        name: The argument to blame if there is none.
        matrix: Symmetric, shape (*b, n, n).
        expected: What the argument must be, completing "name must be ...".
        error: The error to raise.

    Returns:
        Lower triangular factor, shape (*b, n, n).

    Raises:
        InvalidArgumentError: Of the type given, with the first offending matrix and leading minor.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if bool((info != 0).any()):
        batch = first_index(info != 0)
        minor = int(info[batch]) - 1
        raise error(
            f"{name} must be {expected}, but its leading minor fails at index {(*batch, minor, minor)}"
        )
    return factor


def log_determinant(factor: Tensor) -> Tensor:
    """Return the log determinant of the matrix whose Cholesky factor is given.

    Args:
        factor: Lower triangular, shape (*b, n, n).

    Returns:
        Shape (*b).
    """
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def solve(factor: Tensor, vector: Tensor) -> Tensor:
    """Return the solution x of A x = v, from the Cholesky factor of A.

    Args:
        factor: Lower triangular, shape (*b, n, n).
        vector: Shape (*b, n).

    Returns:
        Shape (*b, n).
    """
    return torch.cholesky_solve(vector.unsqueeze(-1), factor).squeeze(-1)


def quadratic(left: Tensor, right: Tensor) -> Tensor:
    """Return the inner product over the last axis.

    Args:
        left: Shape (*b, n).
        right: Shape (*b, n).

    Returns:
        Shape (*b).
    """
    return (left * right).sum(-1)


def identity_outside(matrix: Tensor, kept: Tensor) -> Tensor:
    """Return the matrix with the rows and columns that are not kept replaced by those of the identity.

    Its determinant, solutions and gradients are those of the kept block.

    Args:
        matrix: Shape (*b, n, n).
        kept: Boolean, shape (*b, n).

    Returns:
        Shape (*b, n, n).
    """
    block = kept.unsqueeze(-1) & kept.unsqueeze(-2)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.where(block, matrix, identity)
