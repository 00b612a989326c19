"""Evidence of removing weights together: rows, columns, channels, heads, blocks and N:M patterns.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Shapes: a `Partition` divides a parameter of any shape into groups of equal size.
Theory: arXiv:1805.07092. Groups of a mean-field posterior are independent weights, so evidence adds up;
        under a covariance the joint evidence is the Savage-Dickey ratio of the group's marginals.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction._linear_algebra import cholesky, log_determinant, require_symmetric, solve
from secateur.reduction._validation import Values, common_tensors, require_last_axes, require_positive
from secateur.reduction.partition import Partition
from secateur.shapes import Bool, Float

__all__ = [
    "PatternChoice",
    "group_delta_f",
    "joint_group_delta_f",
    "kronecker_covariance",
    "kronecker_row_delta_f",
    "n_of_m",
]


def group_delta_f(
    delta_f: Float[Tensor, "..."], partition: Partition, *, kept: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "..."]:
    """Return the log evidence of removing each group, from evidence per weight.

    Exact under a mean-field posterior. Where weights depend on each other the sum is optimistic; use
    `joint_group_delta_f`.

    Args:
        delta_f: Nats per weight, in the partition's shape.
        partition: The groups.
        kept: False for weights that are out already; they add nothing. By default all are in.

    Returns:
        Nats, shape `partition.groups`.

    Raises:
        InvalidArgumentError: If shapes do not fit the partition.

    Example:
        >>> import torch
        >>> from secateur.reduction import rows
        >>> group_delta_f(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), rows((2, 2)))
        tensor([-2.0000,  2.5000])
    """
    if kept is not None:
        delta_f = torch.where(kept, delta_f, 0.0)
    return partition.gather(delta_f).sum(-1)


def joint_group_delta_f(
    mean: Float[Tensor, "..."],
    covariance: Float[Tensor, "..."],
    *,
    prior_precision: Values,
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> Float[Tensor, "..."]:
    """Return the joint log evidence of removing each group, from its weights' marginal covariance.

    The covariance of a group comes from any structure: `Partition.gather` on the diagonal of a row-wise
    posterior's inverse, `kronecker_covariance`, or a block of a dense inverse.

    Args:
        mean: Posterior means of each group's weights, shape (*groups, size).
        covariance: Their posterior covariance, shape (*groups, size, size); positive definite.
        prior_precision: Inverse variances of independent priors; positive, broadcasts to (*groups, size).
        prior_mean: Prior means.
        reduced_mean: Where removed weights are pinned.

    Returns:
        Nats, shape (*groups).

    Raises:
        InvalidArgumentError: If shapes disagree or a covariance is not symmetric positive definite.
    """
    values = common_tensors(
        mean=mean,
        covariance=covariance,
        prior_precision=prior_precision,
        prior_mean=prior_mean,
        reduced_mean=reduced_mean,
    )
    m, s, p0, m0, r0 = values.values()
    require_last_axes("covariance", s, *m.shape[-1:] * 2)
    require_symmetric("covariance", s.detach())
    require_positive("prior_precision", p0)
    factor = cholesky("covariance", s)
    from_mean = (m - r0).expand(s.shape[:-1])
    misfit = (from_mean * solve(factor, from_mean)).sum(-1)
    prior = (p0.log() - p0 * (m0 - r0).square()).expand(s.shape[:-1]).sum(-1)
    return -0.5 * (log_determinant(factor) + misfit + prior)


def kronecker_covariance(
    partition: Partition, row_covariance: Float[Tensor, "n n"], column_covariance: Float[Tensor, "m m"]
) -> Float[Tensor, "..."]:
    """Return each group's covariance under a matrix-normal posterior.

    Args:
        partition: Groups of an (n, m) parameter, or of one that flattens to it row by row.
        row_covariance: Inverse of the row precision A.
        column_covariance: Inverse of the column precision B.

    Returns:
        Shape (*groups, size, size); entry (w, v) is A^-1[row w, row v] B^-1[column w, column v].
    """
    num_columns = column_covariance.shape[-1]
    index = torch.arange(math.prod(partition.shape), device=row_covariance.device).reshape(partition.shape)
    index = partition.gather(index)
    row, column = index // num_columns, index % num_columns
    return (
        row_covariance[row.unsqueeze(-1), row.unsqueeze(-2)]
        * column_covariance[column.unsqueeze(-1), column.unsqueeze(-2)]
    )


def kronecker_row_delta_f(
    mean: Float[Tensor, "n m"],
    row_precision: Float[Tensor, "n n"],
    column_precision: Float[Tensor, "m m"],
    *,
    prior_precision: Values,
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> Float[Tensor, " n"]:
    """Return the joint log evidence of removing each row alone under a matrix-normal posterior.

    Row i has the marginal N(m_i, (A^-1)_ii B^-1), so all rows together cost one inverse and one product.
    For columns pass the transposed mean and the factors exchanged.

    Args:
        mean: Posterior means.
        row_precision: A; positive definite.
        column_precision: B; positive definite.
        prior_precision: Inverse variances of independent priors; positive, broadcasts to (n, m).
        prior_mean: Prior means, broadcasts to (n, m).
        reduced_mean: Where removed rows are pinned, broadcasts to (n, m).

    Returns:
        Nats per row.

    Raises:
        InvalidArgumentError: If shapes disagree or a precision is not positive (definite).
    """
    values = common_tensors(
        mean=mean,
        row_precision=row_precision,
        column_precision=column_precision,
        prior_precision=prior_precision,
        prior_mean=prior_mean,
        reduced_mean=reduced_mean,
    )
    m, a, b, p0, m0, r0 = values.values()
    require_symmetric("row_precision", a.detach())
    require_symmetric("column_precision", b.detach())
    require_positive("prior_precision", p0)
    spread = torch.cholesky_inverse(cholesky("row_precision", a)).diagonal()
    volume = log_determinant(cholesky("column_precision", b)) - m.shape[-1] * spread.log()
    from_mean = m - r0
    misfit = ((from_mean @ b) * from_mean).sum(-1) / spread
    prior = (p0.log() - p0 * (m0 - r0).square()).expand(m.shape).sum(-1)
    return 0.5 * (volume - misfit - prior)


@dataclass(frozen=True)
class PatternChoice:
    """The best N:M pattern of every run.

    Attributes:
        keep: Which weights stay, in the parameter's shape.
        delta_f: Joint log evidence of removing the others, nats per run.
    """

    keep: Bool[Tensor, "..."]
    delta_f: Float[Tensor, "..."]


def n_of_m(
    num_kept: int,
    partition: Partition,
    *,
    delta_f: Float[Tensor, "..."] | None = None,
    mean: Float[Tensor, "..."] | None = None,
    covariance: Float[Tensor, "..."] | None = None,
    prior_precision: Values = 1.0,
) -> PatternChoice:
    """Choose in every run of M weights the N that stay, by evidence.

    Args:
        num_kept: N.
        partition: `runs(shape, M)`.
        delta_f: Evidence per weight, in the parameter's shape: the choice under a mean-field posterior.
        mean: Posterior means in the parameter's shape; with `covariance`, instead of `delta_f`.
        covariance: Covariance within each run, shape (*groups, M, M): all patterns are compared jointly.
        prior_precision: Inverse prior variances for the joint choice; a number or (*groups, M).

    Returns:
        Which weights stay, and the evidence.

    Raises:
        InvalidArgumentError: If N is not below M, or neither or both kinds of posterior are given.

    Example:
        >>> import torch
        >>> from secateur.reduction import runs
        >>> n_of_m(2, runs((1, 4), 4), delta_f=torch.tensor([[1.0, -9.0, 2.0, -1.0]])).keep
        tensor([[False,  True, False,  True]])
    """
    size = math.prod(partition.shape) // math.prod(partition.groups)
    if not 0 <= num_kept < size:
        raise InvalidArgumentError(f"num_kept must be below the run's {size} weights, got {num_kept}")
    if delta_f is not None and mean is None and covariance is None:
        gathered = partition.gather(delta_f)
        gain, order = gathered.sort(-1, descending=True)
        keep = torch.ones_like(gathered, dtype=torch.bool).scatter(-1, order[..., : size - num_kept], False)
        return PatternChoice(partition.scatter(keep), gain[..., : size - num_kept].sum(-1))
    if delta_f is not None or mean is None or covariance is None:
        raise InvalidArgumentError("delta_f must be given, or else both mean and covariance")

    means = partition.gather(mean)
    prior = torch.as_tensor(prior_precision, dtype=means.dtype, device=means.device).expand(means.shape)
    patterns = list(itertools.combinations(range(size), size - num_kept))
    evidence = torch.stack(
        [
            joint_group_delta_f(
                means[..., gone], covariance[..., gone, :][..., gone], prior_precision=prior[..., gone]
            )
            for gone in map(list, patterns)
        ],
        -1,
    )
    best, chosen = evidence.max(-1)
    stays = torch.tensor([[i not in gone for i in range(size)] for gone in patterns], device=means.device)
    return PatternChoice(partition.scatter(stays[chosen]), best)
