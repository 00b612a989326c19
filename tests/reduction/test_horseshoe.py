"""The horseshoe reduction against one-dimensional integrals, and on layers whose idle rows are known."""

import math

import pytest
import torch
from scipy.integrate import quad

from secateur.errors import InvalidArgumentError
from secateur.reduction import delta_f, horseshoe, reduced_posterior

FLOAT64 = torch.float64


def layer(dtype: torch.dtype = FLOAT64) -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve rows of which three carry signal; in the third only every fourth weight does."""
    generator = torch.Generator().manual_seed(3)
    precision = torch.full((12, 16), 400.0, dtype=dtype)
    mean = 0.05 * torch.randn(12, 16, dtype=dtype, generator=generator)
    mean[:2] = torch.randn(2, 16, dtype=dtype, generator=generator)
    mean[2, ::4] = 1.0
    return mean, precision


def test_the_bound_is_below_the_integral_over_a_half_cauchy_and_close_to_it() -> None:
    """One scale for the layer: sqrt(z0 / z1) is half-Cauchy, so the evidence is one integral."""
    mean, precision = layer()
    mean, precision = 0.2 * mean[:2, :4], precision[:2, :4]

    def evidence(log_scale: float) -> float:
        scale = math.exp(log_scale)
        total = delta_f(mean, precision, prior_precision=1.0, reduced_precision=scale**-2).sum().item()
        return math.exp(total) * 2 / (math.pi * (1 + scale**2)) * scale

    integral, _ = quad(evidence, -12, 8, epsrel=1e-8, limit=200)
    fit = horseshoe(mean, precision, prior_precision=1.0, hyperprior="layer")
    assert fit.converged
    # The guide takes z0 and z1 as independent where only their ratio matters: that costs half a nat or so.
    assert math.log(integral) - 0.8 < fit.bound < math.log(integral) + 0.05


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_tiered_scales_shrink_idle_rows(dtype: torch.dtype) -> None:
    mean, precision = layer(dtype)
    fit = horseshoe(mean, precision, prior_precision=1.0, hyperprior="tiered")
    assert fit.converged
    assert fit.scale.dtype == dtype
    assert (fit.scale == fit.scale[:, :1]).all()
    assert fit.scale[:3].min() > 20 * fit.scale[3:].max()
    torch.testing.assert_close(
        fit.delta_f, delta_f(mean, precision, prior_precision=1.0, reduced_precision=fit.scale**-2)
    )
    assert fit.delta_f.sum() > fit.bound > 0  # a bound pays for its uncertainty about the scales


def test_full_scales_shrink_idle_weights_within_a_row() -> None:
    mean, precision = layer()
    fit = horseshoe(mean, precision, prior_precision=1.0, hyperprior="full")
    assert fit.converged
    signal = torch.zeros(16, dtype=torch.bool)
    signal[::4] = True
    assert fit.scale[2, signal].min() > 3 * fit.scale[2, ~signal].max()
    expected = reduced_posterior(mean, precision, prior_precision=1.0, reduced_precision=fit.scale**-2)
    torch.testing.assert_close((fit.mean, fit.precision), expected)


def test_scales_below_the_threshold_are_removed() -> None:
    mean, precision = layer()
    fit = horseshoe(mean, precision, prior_precision=1.0, threshold=0.05)
    assert fit.keep[:3].all()
    assert not fit.keep[3:].any()
    assert (fit.mean[3:] == 0).all()
    assert (fit.precision[3:] == math.inf).all()


def test_the_seed_decides_everything() -> None:
    mean, precision = layer()

    def fit(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return horseshoe(mean, precision, prior_precision=1.0, max_steps=500, generator=generator).scale

    first, second = fit(1), fit(2)
    assert torch.equal(first, fit(1))
    assert not torch.equal(first, second)
    assert ((first / second).log().abs() < 0.5).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_fit_takes_its_own_gradients(mode: type[torch.no_grad]) -> None:
    mean, precision = layer()
    expected = horseshoe(mean, precision, prior_precision=1.0, max_steps=20)
    with mode():
        got = horseshoe(mean.clone(), precision.clone(), prior_precision=1.0, max_steps=20)
    assert torch.equal(got.scale.clone(), expected.scale)
    assert not got.scale.requires_grad


def test_no_signal_is_never_better_than_signal_and_steps_are_bounded() -> None:
    mean, precision = layer()
    short = horseshoe(mean, precision, prior_precision=1.0, max_steps=30)
    assert (short.num_steps, short.converged) == (30, False)
    wide = horseshoe(mean, torch.full_like(precision, 0.5), prior_precision=1.0)  # noisier than the prior
    assert wide.delta_f.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"precision": torch.zeros(12, 16)},
            r"precision must be positive and finite, got 0 at index \(0, 0\)",
        ),
        ({"mean": torch.full((12, 16), math.nan)}, r"mean must be finite, got nan at index \(0, 0\)"),
        ({"prior_precision": -1.0}, "prior_precision must be positive"),
        ({"hyperprior": "flat"}, "hyperprior"),
        ({"threshold": 0.0}, "threshold must be positive"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    mean, precision = layer(torch.float32)
    arguments = {"mean": mean, "precision": precision, "prior_precision": 1.0} | change
    with pytest.raises(Exception, match=message) as caught:
        horseshoe(**arguments)  # type: ignore[arg-type]
    if change.keys() != {"hyperprior"}:  # the type checker of the tests sees that one first
        assert caught.type is InvalidArgumentError
