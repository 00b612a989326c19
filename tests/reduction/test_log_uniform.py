"""Evidence of closing a gate, both rules, against quadrature and the published formula."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from secateur.errors import InvalidArgumentError
from secateur.reduction import log_normal_gate_delta_f, log_uniform_gate_delta_f
from secateur.reduction.log_uniform import log_normal_mass

FLOAT64 = torch.float64


@pytest.mark.parametrize(("mean", "std"), [(-12.0, 3.0), (-19.0, 0.5), (-1.0, 1.5), (2.0, 1.0), (-23.0, 2.0)])
@pytest.mark.parametrize(("reduced_mean", "reduced_std"), [(-20.0, 0.7), (-17.0, 1.2), (-25.0, 2.0)])
def test_log_normal_rule_agrees_with_quadrature(
    mean: float, std: float, reduced_mean: float, reduced_std: float
) -> None:
    lower, upper = -20.0, 0.0
    masses = [
        norm.cdf(upper, m, s) - norm.cdf(lower, m, s) for m, s in ((mean, std), (reduced_mean, reduced_std))
    ]
    ratio, _ = quad(
        lambda y: norm.pdf(y, mean, std) * norm.pdf(y, reduced_mean, reduced_std) * (upper - lower),
        lower,
        upper,
        epsabs=0,
        epsrel=1e-12,
        limit=400,
        points=sorted({max(lower, min(upper, v)) for v in (mean, reduced_mean)}),
    )
    got = log_normal_gate_delta_f(mean, std, reduced_log_mean=reduced_mean, reduced_log_std=reduced_std)
    assert got.item() == pytest.approx(math.log(ratio / masses[0] / masses[1]), abs=1e-9)


@given(st.floats(-25, 3), st.floats(0.05, 10))
def test_log_normal_rule_is_the_published_formula_with_its_two_pi(mean: float, std: float) -> None:
    """Transcribed term by term; in 600 digits, for it subtracts numbers near 1e14 and tails."""
    with mpmath.workdps(600):
        mu_q, var_q = mpmath.mpf(mean), mpmath.mpf(std) ** 2
        mu_p, var_p = mpmath.mpf(-20), mpmath.mpf(1e-6) ** 2
        var_r = 1 / (1 / var_q + 1 / var_p)
        mu_r = var_r * (mu_q / var_q + mu_p / var_p)

        def mass(mu: mpmath.mpf, var: mpmath.mpf) -> mpmath.mpf:
            deviation = mpmath.sqrt(2 * var)
            return (mpmath.erfc((-20 - mu) / deviation) - mpmath.erfc((0 - mu) / deviation)) / 2

        published = (
            mpmath.log(mass(mu_r, var_r) * 20 / (mass(mu_p, var_p) * mass(mu_q, var_q)))
            + mpmath.log(var_r / (2 * mpmath.pi * var_p * var_q)) / 2
            - (mu_q**2 / var_q + mu_p**2 / var_p - mu_r**2 / var_r) / 2
        )
        expected = float(published)
    assert log_normal_gate_delta_f(mean, std).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_point_reduction_is_the_savage_dickey_ratio_at_the_lower_end() -> None:
    mean, std = -17.0, 2.0
    density = norm.pdf(-20, mean, std) / (norm.cdf(0, mean, std) - norm.cdf(-20, mean, std))
    got = log_normal_gate_delta_f(mean, std, reduced_log_std=1e-9)
    assert got.item() == pytest.approx(math.log(density * 20), abs=1e-8)


@pytest.mark.parametrize(("mean", "std"), [(-12.0, 3.0), (-19.0, 0.5), (-1.0, 1.5), (2.0, 1.0), (-23.0, 2.0)])
def test_log_uniform_rule_agrees_with_the_ratio_of_masses(mean: float, std: float) -> None:
    inside = norm.cdf(-6.0, mean, std) - norm.cdf(-18.0, mean, std)
    full = norm.cdf(0, mean, std) - norm.cdf(-20, mean, std)
    got = log_uniform_gate_delta_f(mean, std, reduced_lower=-18.0, reduced_upper=-6.0)
    assert got.item() == pytest.approx(math.log(20 / 12 * inside / full), abs=1e-8)


def test_no_reduction_gives_zero() -> None:
    same = log_uniform_gate_delta_f(torch.tensor([-30.0, -10.0, 5.0], dtype=FLOAT64), 2.0, reduced_upper=0.0)
    torch.testing.assert_close(same, torch.zeros(3, dtype=FLOAT64))


def test_mass_far_in_a_tail() -> None:
    low, high = (
        torch.tensor([30.0, -31.0, -1.0], dtype=FLOAT64),
        torch.tensor([31.0, -30.0, 1.0], dtype=FLOAT64),
    )
    got = log_normal_mass(low, high)
    with mpmath.workdps(400):
        tail = float(mpmath.log((mpmath.erfc(30 / mpmath.sqrt(2)) - mpmath.erfc(31 / mpmath.sqrt(2))) / 2))
    torch.testing.assert_close(got[:2], torch.tensor([tail, tail], dtype=FLOAT64))
    assert got[2].item() == pytest.approx(math.log(norm.cdf(1) - norm.cdf(-1)))


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_both_rules_are_differentiable_and_finite(dtype: torch.dtype) -> None:
    mean = torch.linspace(-40, 20, 61, dtype=dtype).requires_grad_()
    std = torch.tensor([0.05, 0.5, 5.0], dtype=dtype)[:, None].requires_grad_()
    for value in (
        log_normal_gate_delta_f(mean, std),
        log_uniform_gate_delta_f(mean, std, reduced_upper=-8 * math.log(2)),
    ):
        assert value.dtype == dtype
        if dtype == FLOAT64:
            gradients = torch.autograd.grad(value.sum(), [mean, std])
            assert value.isfinite().all()
            assert all(g.isfinite().all() for g in gradients)
    if dtype == FLOAT64:
        inside = torch.tensor([-15.0, -10.0, -3.0], dtype=dtype).requires_grad_()
        wide = torch.tensor([2.0, 1.0, 3.0], dtype=dtype).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda m, s: log_normal_gate_delta_f(m, s, reduced_log_std=0.3), [inside, wide]
        )
        assert torch.autograd.gradcheck(
            lambda m, s: log_uniform_gate_delta_f(m, s, reduced_upper=-6.0), [inside, wide]
        )


def test_bad_arguments_are_named() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"log_std must be positive and finite, got 0 at index \(1,\)"
    ):
        log_normal_gate_delta_f(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(InvalidArgumentError, match="reduced_lower and reduced_upper must lie in"):
        log_uniform_gate_delta_f(0.0, 1.0, reduced_upper=1.0)
    with pytest.raises(InvalidArgumentError, match="upper must be above lower"):
        log_normal_gate_delta_f(0.0, 1.0, lower=0.0, upper=-1.0)
