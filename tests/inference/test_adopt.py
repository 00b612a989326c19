"""An optimiser that goes on under a narrower prior stands exactly where the reduction left it."""

import pytest
import torch
from torch import nn

from secateur import Posterior
from secateur.errors import InvalidArgumentError
from secateur.inference import FlatFF
from secateur.reduction import reduced_posterior


def build(*, adaptive: bool) -> tuple[nn.Module, FlatFF]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    optimizer = FlatFF(
        model.named_parameters(),
        lr=1e-2,
        num_data=40,
        adaptive=adaptive,
        generator=torch.Generator().manual_seed(0),
    )
    return model, optimizer


def step(model: nn.Module, optimizer: FlatFF) -> float:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with optimizer.sampled_parameters():
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
    optimizer.step()
    return float(loss.detach())


def narrower(posterior: Posterior) -> Posterior:
    """Quarter the prior's variance of each weight of the first row, and remove an entry."""
    mean, precision, prior = dict(posterior.mean), dict(posterior.precision), {}
    for name, each in posterior.prior_precision.items():
        prior[name] = each.expand(mean[name].shape).clone()
        prior[name][0] *= 4
        mean[name], precision[name] = reduced_posterior(
            mean[name], precision[name], prior_precision=each, reduced_precision=prior[name]
        )
    keep = {name: torch.ones_like(value, dtype=torch.bool) for name, value in mean.items()}
    keep["0.weight"][1, 2] = False
    return Posterior(mean, precision, prior, keep)


def test_the_adopted_posterior_is_the_optimizers_own():
    model, optimizer = build(adaptive=True)
    for _ in range(3):
        step(model, optimizer)
    wanted = narrower(optimizer.posterior())
    optimizer.adopt(wanted)
    optimizer.hold(wanted.keep)
    found = optimizer.posterior()
    for name, keep in wanted.keep.items():
        for kind in ("mean", "precision", "prior_precision"):
            torch.testing.assert_close(getattr(found, kind)[name][keep], getattr(wanted, kind)[name][keep])
        expected = wanted.mean[name] * keep
        torch.testing.assert_close(dict(model.named_parameters())[name].detach(), expected)
    assert not found.keep["0.weight"][1, 2]
    step(model, optimizer)
    assert model[0].weight[1, 2] == 0


def test_before_any_reduction_adaptive_changes_nothing():
    plain, adaptive = build(adaptive=False), build(adaptive=True)
    for _ in range(4):
        assert step(*plain) == step(*adaptive)
    for name, mean in plain[1].posterior().mean.items():
        assert torch.equal(mean, adaptive[1].posterior().mean[name])


def test_an_optimizer_without_scales_of_its_own_refuses():
    _, optimizer = build(adaptive=False)
    with pytest.raises(InvalidArgumentError, match="adopt: expected an optimizer with adaptive=True"):
        optimizer.adopt(optimizer.posterior())
