"""Groups: partitions by index arithmetic, sums under mean-field, joint evidence under a covariance."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction import (
    Partition,
    blocks,
    channels,
    columns,
    delta_f,
    dense_delta_f,
    group_delta_f,
    heads,
    joint_group_delta_f,
    kronecker_covariance,
    kronecker_row_delta_f,
    matrix_normal_delta_f,
    n_of_m,
    rows,
    rowwise_delta_f,
    runs,
)

FLOAT64 = torch.float64

PARTITIONS = {
    "rows": (rows((4, 6)), lambda i, j: (i,)),
    "columns": (columns((4, 6)), lambda i, j: (j,)),
    "heads of the query": (heads((4, 6), 2), lambda i, j: (i // 2,)),
    "heads of the output": (heads((4, 6), 3, axis=1), lambda i, j: (j // 2,)),
    "blocks": (blocks((4, 6), (2, 3)), lambda i, j: (i // 2, j // 3)),
    "runs": (runs((4, 6), 3), lambda i, j: (i, j // 3)),
    "bands": (blocks((4, 6), (2,)), lambda i, j: (i // 2,)),
}


@pytest.mark.parametrize(("partition", "group_of"), PARTITIONS.values(), ids=PARTITIONS.keys())
def test_each_entry_is_counted_in_its_group(
    partition: Partition, group_of: object, generator: torch.Generator
) -> None:
    values = torch.randn(4, 6, dtype=FLOAT64, generator=generator)
    expected: dict[tuple[int, ...], float] = {}
    for i, j in itertools.product(range(4), range(6)):
        group = group_of(i, j)  # type: ignore[operator]
        if partition.groups == (4, 1, 2):
            group = (group[0], 0, group[1])
        expected[group] = expected.get(group, 0.0) + values[i, j].item()
    got = group_delta_f(values, partition)
    assert got.numel() == len(expected)
    for group, total in expected.items():
        index = group if len(group) == got.dim() else (group[0], *group[1:])
        assert got[index].item() == pytest.approx(total, abs=1e-12)
    assert torch.equal(partition.scatter(partition.gather(values)), values)
    number = torch.arange(got.numel()).reshape(got.shape)
    assert torch.equal(
        partition.gather(partition.scatter(number)),
        number.unsqueeze(-1).expand(partition.gather(values).shape),
    )


def test_channels_of_a_convolution(generator: torch.Generator) -> None:
    values = torch.randn(6, 4, 3, 3, dtype=FLOAT64, generator=generator)
    torch.testing.assert_close(group_delta_f(values, channels((6, 4, 3, 3))), values.sum((1, 2, 3)))
    torch.testing.assert_close(group_delta_f(values, channels((6, 4, 3, 3), axis=1)), values.sum((0, 2, 3)))
    tiles = group_delta_f(values, blocks((6, 4, 3, 3), (2, 2)))
    torch.testing.assert_close(tiles, values.reshape(3, 2, 2, 2, 3, 3).sum((1, 3, 4, 5)))


def test_weights_that_are_out_add_nothing() -> None:
    values = torch.tensor([[1.0, math.nan], [2.0, 3.0]])
    kept = torch.tensor([[True, False], [True, True]])
    assert group_delta_f(values, rows((2, 2)), kept=kept).tolist() == [1.0, 5.0]


def positive_definite(size: int, generator: torch.Generator) -> Tensor:
    root = torch.randn(size, size, dtype=FLOAT64, generator=generator)
    return root @ root.mT + torch.eye(size, dtype=FLOAT64)


@pytest.mark.parametrize("partition", [p for p, _ in PARTITIONS.values()], ids=PARTITIONS.keys())
def test_joint_evidence_is_the_dense_one_not_the_sum(
    partition: Partition, generator: torch.Generator
) -> None:
    row_precision, column_precision = positive_definite(4, generator), positive_definite(6, generator)
    mean = torch.randn(4, 6, dtype=FLOAT64, generator=generator)
    prior, prior_mean = 0.5, 0.25
    covariance = kronecker_covariance(
        partition, torch.linalg.inv(row_precision), torch.linalg.inv(column_precision)
    )
    joint = joint_group_delta_f(
        partition.gather(mean), covariance, prior_precision=prior, prior_mean=prior_mean, reduced_mean=0.125
    )
    number = torch.arange(joint.numel()).reshape(joint.shape)
    pins = torch.stack([(partition.scatter(number) == k).flatten() for k in range(joint.numel())])
    prior_matrix = prior * torch.eye(24, dtype=FLOAT64)
    expected = dense_delta_f(
        mean.flatten(),
        torch.kron(row_precision, column_precision),
        prior_precision=prior_matrix,
        prior_mean=prior_mean,
        reduced_precision=torch.where(torch.diag_embed(pins), math.inf, prior_matrix),
        reduced_mean=torch.where(pins, 0.125, prior_mean).to(FLOAT64),
    )
    torch.testing.assert_close(joint.flatten(), expected, rtol=0, atol=1e-9)
    variance = torch.outer(
        torch.linalg.inv(row_precision).diagonal(), torch.linalg.inv(column_precision).diagonal()
    )
    alone = delta_f(mean, 1 / variance, prior_precision=prior, prior_mean=prior_mean, reduced_mean=0.125)
    assert (group_delta_f(alone, partition) - joint).abs().max() > 0.1


def test_whole_rows_have_closed_forms_that_agree(generator: torch.Generator) -> None:
    row_precision, column_precision = positive_definite(4, generator), positive_definite(3, generator)
    mean = torch.randn(4, 3, dtype=FLOAT64, generator=generator)
    got = kronecker_row_delta_f(
        mean, row_precision, column_precision, prior_precision=0.5, prior_mean=0.25, reduced_mean=-0.125
    )
    eye = torch.eye(4, dtype=FLOAT64).bool()
    pinned = torch.where(eye, math.inf, 0.5).to(FLOAT64)
    each = matrix_normal_delta_f(
        mean,
        row_precision,
        column_precision,
        prior_precision=0.5,
        reduced_precision=pinned,
        prior_mean=0.25,
        # A row that stays keeps its prior, mean included; only the pinned one goes to -0.125.
        reduced_mean=torch.where(eye.unsqueeze(-1), -0.125, 0.25).to(FLOAT64),
    )
    torch.testing.assert_close(got, each, rtol=0, atol=1e-9)
    independent = torch.eye(4, dtype=FLOAT64) * 2
    torch.testing.assert_close(
        kronecker_row_delta_f(mean, independent, column_precision, prior_precision=0.5),
        rowwise_delta_f(mean, (2 * column_precision).expand(4, 3, 3), prior_precision=0.5),
    )


def test_the_best_pattern_of_independent_weights_is_the_best_of_all(generator: torch.Generator) -> None:
    mean = 0.3 * torch.randn(3, 8, dtype=FLOAT64, generator=generator)
    precision = 20 + 10 * torch.rand(3, 8, dtype=FLOAT64, generator=generator)
    partition = runs((3, 8), 4)
    summed = n_of_m(2, partition, delta_f=delta_f(mean, precision, prior_precision=0.5))
    joint = n_of_m(
        2,
        partition,
        mean=mean,
        covariance=torch.diag_embed(1 / partition.gather(precision)),
        prior_precision=0.5,
    )
    assert torch.equal(summed.keep, joint.keep)
    torch.testing.assert_close(summed.delta_f, joint.delta_f)
    assert (partition.gather(summed.keep).sum(-1) == 2).all()


def test_correlated_weights_choose_another_pattern() -> None:
    """Two regressors that say the same: either may go, but not both, which only the joint evidence knows."""
    covariance = torch.tensor([[1.0, -0.99, 0.0], [-0.99, 1.0, 0.0], [0.0, 0.0, 0.1]], dtype=FLOAT64)[
        None, None
    ]
    mean = torch.tensor([[0.8, 0.8, 0.7]], dtype=FLOAT64)
    partition = runs((1, 3), 3)
    variance = covariance.diagonal(dim1=-2, dim2=-1).reshape(1, 3)
    summed = n_of_m(1, partition, delta_f=delta_f(mean, 1 / variance, prior_precision=0.1))
    joint = n_of_m(1, partition, mean=mean, covariance=covariance, prior_precision=0.1)
    assert summed.keep.tolist() == [[False, False, True]]
    assert joint.keep.sum() == 1
    assert joint.keep.tolist() != summed.keep.tolist()


def test_bad_groups_are_named() -> None:
    with pytest.raises(InvalidArgumentError, match="num_heads must divide 6, got 4"):
        heads((4, 6), 4, axis=1)
    with pytest.raises(InvalidArgumentError, match="block must divide 6, got 5"):
        blocks((4, 6), (2, 5))
    with pytest.raises(InvalidArgumentError, match="axis must be below 2"):
        channels((4, 6), 2)
    with pytest.raises(InvalidArgumentError, match=r"values must have shape \(4, 6\), got \(6, 4\)"):
        group_delta_f(torch.zeros(6, 4), rows((4, 6)))
    with pytest.raises(InvalidArgumentError, match="num_kept must be below the run's 3 weights, got 3"):
        n_of_m(3, runs((4, 6), 3), delta_f=torch.zeros(4, 6))
    with pytest.raises(InvalidArgumentError, match="delta_f must be given, or else"):
        n_of_m(2, runs((4, 6), 3))
    with pytest.raises(InvalidArgumentError, match=r"covariance must be positive definite.* \(1, 0, 0\)"):
        joint_group_delta_f(
            torch.zeros(2, 2),
            torch.stack([torch.eye(2), -torch.eye(2)]),
            prior_precision=1.0,
        )
