"""Predicted against observed, on a linear model where the bound can be exact."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from secateur.errors import InvalidArgumentError
from secateur.reduction import (
    delta_f,
    dense_delta_f,
    evidence_lower_bound,
    gaussian_divergence,
    predicted_against_observed,
    reduced_posterior,
)

FLOAT64 = torch.float64


def regression(correlation: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 4, dtype=FLOAT64, generator=generator)
    inputs[:, 1] = correlation * inputs[:, 0] + math.sqrt(1 - correlation**2) * inputs[:, 1]
    if correlation == 0:
        inputs = torch.linalg.qr(inputs).Q * math.sqrt(60)
    targets = inputs @ torch.tensor([0.25, 0.2, 0.0, 0.0], dtype=FLOAT64)
    return inputs, targets + torch.randn(60, dtype=FLOAT64, generator=generator)


def bound(inputs: torch.Tensor, targets: torch.Tensor, mean: torch.Tensor, precision: torch.Tensor) -> float:
    """ELBO of a mean-field posterior of linear regression with unit noise and prior."""
    variance = 1 / precision
    expected = Normal(inputs @ mean, 1.0).log_prob(targets).sum() - 0.5 * (inputs.square() @ variance).sum()
    return evidence_lower_bound(expected.item(), mean, precision, prior_precision=1.0)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_prediction_is_exact_if_the_posterior_is_and_optimistic_if_not(correlation: float) -> None:
    inputs, targets = regression(correlation)
    dense = inputs.mT @ inputs + torch.eye(4, dtype=FLOAT64)
    mean, precision = torch.linalg.solve(dense, inputs.mT @ targets), dense.diagonal()
    removed = torch.tensor([True, True, False, False])
    evidence = delta_f(mean, precision, prior_precision=1.0)
    pins = torch.where(removed, math.inf, 1.0)
    joint = dense_delta_f(
        mean,
        dense,
        prior_precision=torch.eye(4, dtype=FLOAT64),
        reduced_precision=torch.diag(pins.to(FLOAT64)),
    )
    after = reduced_posterior(mean, precision, prior_precision=1.0, reduced_precision=pins)
    report = predicted_against_observed(
        evidence,
        removed,
        elbo_before=bound(inputs, targets, mean, precision),
        elbo_after=bound(inputs, targets, *after),
        joint_delta_f=joint.item(),
    )
    assert report.num_removed == 2
    assert report.sum_delta_f == pytest.approx(evidence[:2].sum().item())
    if correlation == 0:
        assert report.observed == pytest.approx(report.sum_delta_f, abs=1e-9)
        assert report.optimism == pytest.approx(0, abs=1e-9)
    else:
        assert report.sum_delta_f > report.observed + 1
        assert report.optimism_per_weight == pytest.approx(report.optimism / 2)
    assert "2 removed" in str(report)
    assert "not refitted" in str(report)


def test_divergence_is_that_of_torch_and_zero_where_pinned() -> None:
    got = gaussian_divergence(
        torch.tensor([0.3, 0.3]), torch.tensor([4.0, math.inf]), prior_precision=0.5, prior_mean=1.0
    )
    expected = kl_divergence(Normal(0.3, 0.5), Normal(1.0, math.sqrt(2.0)))
    torch.testing.assert_close(got, torch.stack([expected, torch.zeros(())]))


def test_nothing_removed_and_numbers_that_are_none() -> None:
    evidence, removed = torch.tensor([1.0, math.inf]), torch.tensor([False, False])
    report = predicted_against_observed(evidence, removed, elbo_before=-1.0, elbo_after=-1.0, refitted=True)
    assert (report.optimism, report.optimism_per_weight) == (0.0, 0.0)
    assert "jointly" in str(report)
    with pytest.raises(
        InvalidArgumentError, match=r"delta_f must be finite where .* got inf at index \(1,\)"
    ):
        predicted_against_observed(evidence, ~removed, elbo_before=0.0, elbo_after=0.0)
    with pytest.raises(InvalidArgumentError, match="elbo_after must be finite, got nan"):
        predicted_against_observed(evidence, removed, elbo_before=0.0, elbo_after=math.nan)
