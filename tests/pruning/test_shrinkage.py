"""Reduction of a network's prior to a horseshoe: rows of no use go, what is needed keeps its prior."""

import math

import pytest
import torch

from secateur import Posterior
from secateur.pruning.shrinkage import shrink
from secateur.reduction import delta_f, reduced_posterior

USED = torch.tensor([True, False, True, False, False, False])


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    """Six output units under priors of std 0.1; the data speak for two of them."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (6, 3, 2), "a.bias": (6,), "b.weight": (2, 6)}
    mean, precision, prior = {}, {}, {}
    for name, shape in shapes.items():
        used = (USED if shape[0] == 6 else torch.ones(2, dtype=torch.bool)).view(-1, *[1] * (len(shape) - 1))
        mean[name] = 0.1 * torch.where(used, 1 + 0.3 * torch.randn(shape, generator=generator), 0.0)
        precision[name] = 100.0 * torch.where(used, 400.0, 1.02).expand(shape).clone()
        prior[name] = torch.tensor(100.0)
    return Posterior(mean, precision, prior)


@pytest.fixture(scope="module")
def done(posterior):
    return shrink(posterior, exclude=["b.*"], generator=torch.Generator().manual_seed(0))


def std(posterior: Posterior, name: str) -> torch.Tensor:
    return posterior.prior_precision[name].expand(posterior.mean[name].shape).rsqrt()


def test_idle_rows_shrink_with_their_bias_and_the_used_ones_hardly(done):
    for name in ("a.weight", "a.bias"):
        narrower = std(done.posterior, name) / 0.1
        assert narrower[~USED].max() < 0.1
        assert narrower[USED].min() > 0.4
        assert narrower.max() <= 1.0  # a reduction never widens
        per_row = narrower.reshape(6, -1)
        torch.testing.assert_close(per_row, per_row[:, :1].expand_as(per_row))
    weight, bias = (std(done.posterior, name).reshape(6, -1)[:, 0] for name in ("a.weight", "a.bias"))
    torch.testing.assert_close(weight, bias)


def test_the_posterior_is_that_of_the_narrower_prior(done, posterior):
    for name in ("a.weight", "a.bias"):
        old, new = posterior.prior_precision[name], done.posterior.prior_precision[name]
        mean, precision = reduced_posterior(
            posterior.mean[name], posterior.precision[name], prior_precision=old, reduced_precision=new
        )
        torch.testing.assert_close(done.posterior.mean[name], mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(done.posterior.precision[name], precision, rtol=1e-4, atol=1e-3)
        expected = delta_f(
            posterior.mean[name], posterior.precision[name], prior_precision=old, reduced_precision=new
        )
        torch.testing.assert_close(done.result.delta_f[name], expected, rtol=1e-3, atol=1e-3)
    total = sum(done.result.delta_f[name].sum() for name in ("a.weight", "a.bias"))
    assert done.result.predicted_delta_f == pytest.approx(float(total), rel=1e-4)


def test_the_excluded_layer_keeps_all_it_had(done, posterior):
    assert torch.equal(done.posterior.mean["b.weight"], posterior.mean["b.weight"])
    assert torch.equal(std(done.posterior, "b.weight"), std(posterior, "b.weight"))
    assert done.result.masks["b.weight"].all()


def test_again_and_again_idle_rows_fall_below_the_threshold_and_go(posterior):
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        done = shrink(posterior, exclude=["b.*"], generator=generator)
        posterior = done.posterior
    masks = done.result.masks
    assert masks["a.weight"][USED].all()
    assert not masks["a.weight"][~USED].any()
    assert not masks["a.bias"][~USED].any()
    again = shrink(posterior, exclude=["b.*"], generator=generator)
    assert again.result.num_removed == 0
    assert math.isfinite(again.result.predicted_delta_f)


def test_some_layers_alone_leave_the_others_as_they_were(posterior):
    whole = shrink(posterior, generator=torch.Generator().manual_seed(0))
    assert list(whole.evidence) == ["a", "b"]
    part = whole.within(["a"])
    for kind in ("mean", "precision", "prior_precision"):
        assert torch.equal(getattr(part.posterior, kind)["a.bias"], getattr(whole.posterior, kind)["a.bias"])
        assert torch.equal(
            getattr(part.posterior, kind)["b.weight"].expand(2, 6),
            getattr(posterior, kind)["b.weight"].expand(2, 6),
        )
    assert torch.isnan(part.result.delta_f["b.weight"]).all()
    total = sum(float(whole.result.delta_f[name].sum()) for name in ("a.weight", "a.bias"))
    assert part.result.predicted_delta_f == pytest.approx(total, rel=1e-4)
    nothing = whole.within([])
    assert nothing.result.predicted_delta_f == 0
    assert nothing.result.num_removed == 0
    assert torch.equal(nothing.posterior.mean["a.weight"], posterior.mean["a.weight"])
