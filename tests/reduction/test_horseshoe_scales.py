"""Log-normal posteriors of horseshoe scales, against torch's distributions and against draws."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Gamma, LogNormal

from secateur.errors import InvalidArgumentError
from secateur.reduction.horseshoe_scales import HorseshoeScales

LIKE = torch.zeros(3, 4, dtype=torch.float64)
OPTIONS = {"global_scale": 0.3, "slab_concentration": 2.0, "slab_rate": 6.0, "widest": math.inf}


def _prior(hyperprior: str, **changes: float) -> HorseshoeScales:
    return HorseshoeScales.prior(hyperprior, LIKE, **OPTIONS | changes)


def _narrow(scales: HorseshoeScales) -> HorseshoeScales:
    """Give each kind of scale a place and a width of its own, narrow enough for means by draws."""
    loc = tuple(value - 0.3 * k for k, value in enumerate(scales.loc))
    log_std = tuple(torch.full_like(value, -1.0 - 0.1 * k) for k, value in enumerate(scales.log_std))
    return replace(scales, loc=loc, log_std=log_std)


@pytest.mark.parametrize(
    ("hyperprior", "shapes"),
    [
        ("layer", [(1, 1)] * 2),
        ("tiered", [(1, 1)] * 2 + [(3, 1)] * 2 + [(1, 1)]),
        ("full", [(1, 1)] * 2 + [(3, 1)] * 2 + [(3, 4)] * 2 + [(1, 1)]),
    ],
)
def test_each_level_has_a_ratio_of_its_own_and_the_slab_is_one(hyperprior, shapes):
    assert [tuple(loc.shape) for loc in _prior(hyperprior).loc] == shapes


def test_the_prior_is_the_nearest_log_normal():
    scales = _prior("full")
    leaves = [leaf.requires_grad_() for leaf in (*scales.loc, *scales.log_std)]
    for slope in torch.autograd.grad(scales.divergence(), leaves):
        torch.testing.assert_close(slope, torch.zeros_like(slope))


def test_the_divergence_is_that_of_draws():
    scales = _narrow(_prior("tiered"))
    torch.manual_seed(0)
    total, variance = 0.0, 0.0
    for loc, log_std, a, b in zip(scales.loc, scales.log_std, scales.concentration, scales.rate, strict=True):
        posterior = LogNormal(loc, log_std.exp())
        draws = posterior.sample((20_000,))
        prior = Gamma(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
        each = (posterior.log_prob(draws) - prior.log_prob(draws)).flatten(1).sum(1)
        total += float(each.mean())
        variance += float(each.var()) / len(each)
    assert float(scales.divergence()) == pytest.approx(total, abs=4 * math.sqrt(variance))


@pytest.mark.parametrize("hyperprior", ["layer", "tiered", "full"])
def test_the_expected_precision_is_that_of_draws(hyperprior):
    scales = _narrow(_prior(hyperprior))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([
        scales
        .log_precision(tuple(torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in scales.loc))
        .exp()
        .expand(LIKE.shape)
        for _ in range(20_000)
    ])
    error = (draws.mean(0) - scales.expected_precision()) / (draws.std(0) / math.sqrt(len(draws)))
    assert float(error.abs().max()) < 4.5


def test_no_scale_is_wider_than_the_widest():
    scales = _prior("tiered", widest=0.1, global_scale=50.0)
    noise = tuple(torch.zeros_like(loc) for loc in scales.loc)
    assert float(scales.log_precision(noise).min()) >= math.log(100.0) - 1e-9
    assert float(scales.expected_precision().min()) >= 100.0 - 1e-6


def test_an_unknown_hyperprior_is_refused():
    with pytest.raises(InvalidArgumentError, match="must be full, tiered or layer, got 'rows'"):
        _prior("rows")
