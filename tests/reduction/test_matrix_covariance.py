"""Groups of equal size come together; the dense covariance is the inverse of what is in."""

import pytest
import torch

from secateur.errors import InvalidArgumentError
from secateur.reduction import matrix_covariance
from secateur.reduction.matrix_covariance import DenseCovariance, equal_groups


def test_groups_come_by_size_with_the_entries_that_are_in():
    labels = torch.tensor([[0, 1, 1, -1], [3, 0, 1, 4]])
    present = torch.tensor([[True, True, True, True], [True, True, False, True]])
    found = {
        int(group): sorted(entries.tolist())
        for groups, index in equal_groups(labels, present, 5)
        for group, entries in zip(groups, index, strict=True)
    }
    assert found == {0: [0, 5], 1: [1, 2], 3: [4], 4: [7]}


def test_a_label_beyond_the_groups_is_refused():
    with pytest.raises(InvalidArgumentError, match="labels must be below 2, got 2"):
        list(equal_groups(torch.tensor([[0, 2]]), torch.ones(1, 2, dtype=torch.bool), 2))


def test_evidence_does_not_depend_on_how_many_groups_are_judged_at_once(generator, monkeypatch):
    root = torch.randn(12, 13, dtype=torch.float64, generator=generator)
    present = torch.ones(3, 4, dtype=torch.bool)
    mean = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    dense = DenseCovariance(present, root @ root.T)
    labels = torch.arange(12).reshape(3, 4) // 2
    arguments = {"prior_precision": torch.ones(3, 4, dtype=torch.float64)}
    expected = dense.group_delta_f(mean, labels, 6, **arguments)
    monkeypatch.setattr(matrix_covariance, "CHUNK_ENTRIES", 5)
    torch.testing.assert_close(dense.group_delta_f(mean, labels, 6, **arguments), expected, rtol=0, atol=0)


def test_a_precision_that_is_not_positive_definite_is_refused():
    with pytest.raises(InvalidArgumentError, match="precision must be positive definite"):
        DenseCovariance(torch.ones(1, 2, dtype=torch.bool), torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double())
