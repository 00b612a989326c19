"""Per-weight evidence against quadrature, exact limits, properties, and a hundred decades."""

import itertools
import math
import re

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from secateur.errors import InvalidArgumentError, NotNestedError
from secateur.reduction import _streaming, delta_f, reduced_posterior

FLOAT64 = torch.float64

# mean, precision, prior_mean, prior_precision, reduced_mean, reduced_precision
CASES = [
    (0.3, 7.0, 0.0, 2.5, 0.0, 40.0),
    (-1.2, 7.0, 0.4, 2.5, -0.3, 3.0),
    (0.8, 1.5, 0.1, 2.0, 0.5, 0.9),  # a posterior wider than its prior, a reduced prior wider still
    (2.0, 50.0, -1.0, 0.2, 1.0, 0.1),
    (0.0, 2.5, 0.0, 2.5, 0.0, 100.0),
]


def arguments(case: tuple[float, ...]) -> tuple[tuple[float, float], dict[str, float]]:
    mean, precision, prior_mean, prior_precision, reduced_mean, reduced_precision = case
    return (mean, precision), {
        "prior_mean": prior_mean,
        "prior_precision": prior_precision,
        "reduced_mean": reduced_mean,
        "reduced_precision": reduced_precision,
    }


def exact(case: tuple[float, ...]) -> float:
    """The textbook formula in sixty digits more than the range needs."""
    with mpmath.workdps(700):
        m, p, m0, p0, r0, r = map(mpmath.mpf, case)
        after = p + r - p0
        shifted = (p * m + r * r0 - p0 * m0) / after
        volume = mpmath.log(p * r / (p0 * after)) / 2
        return float(volume - (p * m**2 + r * r0**2 - p0 * m0**2 - after * shifted**2) / 2)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_quadrature(case: tuple[float, ...]) -> None:
    (m, p), keywords = arguments(case)

    def integrand(w: float) -> float:
        return math.exp(
            norm.logpdf(w, m, p**-0.5)
            + norm.logpdf(w, case[4], case[5] ** -0.5)
            - norm.logpdf(w, case[2], case[3] ** -0.5)
        )

    after_mean, after_precision = (float(v) for v in reduced_posterior(m, p, **keywords))
    width = 12 / math.sqrt(after_precision)
    evidence, _ = quad(integrand, after_mean - width, after_mean + width, epsabs=0, epsrel=1e-12, limit=400)
    first, _ = quad(lambda w: w * integrand(w), after_mean - width, after_mean + width, epsrel=1e-12)
    assert delta_f(m, p, **keywords).item() == pytest.approx(math.log(evidence), abs=1e-10)
    assert after_mean == pytest.approx(first / evidence, abs=1e-9)


def test_a_point_mass_is_the_savage_dickey_ratio() -> None:
    got = delta_f(0.3, 7.0, prior_precision=2.5, prior_mean=-0.4, reduced_mean=0.1)
    expected = norm.logpdf(0.1, 0.3, 7.0**-0.5) - norm.logpdf(0.1, -0.4, 2.5**-0.5)
    assert got.item() == pytest.approx(expected, abs=1e-14)
    mean, precision = reduced_posterior(0.3, 7.0, prior_precision=2.5, prior_mean=-0.4, reduced_mean=0.1)
    assert (mean.item(), precision.item()) == (pytest.approx(0.1), math.inf)


def test_a_narrow_reduced_prior_tends_to_the_point_mass() -> None:
    pinned = delta_f(0.3, 7.0, prior_precision=2.5).item()
    errors = [
        abs(delta_f(0.3, 7.0, prior_precision=2.5, reduced_precision=10.0**k).item() - pinned)
        for k in range(2, 13, 2)
    ]
    assert all(later < earlier / 50 for earlier, later in itertools.pairwise(errors))


@pytest.mark.parametrize("decades", [10, 50])
@pytest.mark.parametrize("pinned", [False, True])
def test_exact_and_finite_over_a_hundred_decades(decades: int, pinned: bool) -> None:
    rng = np.random.default_rng(decades)
    worst = 0.0
    for _ in range(300):
        p, p0, r = 10.0 ** rng.uniform(-decades, decades, 3)
        r = math.inf if pinned else max(r, 1.5 * (p0 - p))
        m, m0, r0 = 10.0 ** rng.uniform(-decades / 2, decades / 2, 3) * rng.choice([-1, 0, 1], 3)
        leaves = [torch.tensor(v, dtype=FLOAT64, requires_grad=True) for v in (m, p, m0, p0, r0, r)]
        value = delta_f(
            leaves[0],
            leaves[1],
            prior_mean=leaves[2],
            prior_precision=leaves[3],
            reduced_mean=leaves[4],
            reduced_precision=leaves[5],
        )
        value.backward()
        assert all(leaf.grad is not None and leaf.grad.isfinite() for leaf in leaves)
        if pinned:
            with mpmath.workdps(700):
                a, b = mpmath.mpf(m) - mpmath.mpf(r0), mpmath.mpf(m0) - mpmath.mpf(r0)
                expected = float((mpmath.log(mpmath.mpf(p) / p0) - p * a**2 + p0 * b**2) / 2)
        else:
            expected = exact((m, p, m0, p0, r0, r))
        # The rounding of the inputs alone moves the result by this much.
        s, u = (1.0, 1.0) if pinned else (abs(r - p0) / (p + r - p0), (r + p) / (p + r - p0))
        condition = 1 + p * (m - r0) ** 2 * s + p0 * (m0 - r0) ** 2 * u + abs(math.log(p / p0))
        worst = max(worst, abs(value.item() - expected) / condition)
    assert worst < 1e-13


def test_extreme_float32_stays_a_number() -> None:
    scales = torch.tensor([1e-30, 1e-15, 1.0, 1e15, 1e30])
    p, p0, r = torch.meshgrid(scales, scales, scales, indexing="ij")
    r = torch.maximum(r, 2 * p0)
    mean = (1 / p.sqrt()).requires_grad_()
    value = delta_f(mean, p, prior_precision=p0, reduced_precision=r)
    value.sum().backward()
    assert value.isfinite().all()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()


positive = st.floats(-6, 6).map(lambda e: 10.0**e)
location = st.floats(-5, 5)


@given(location, positive, location, positive)
def test_no_reduction_gives_zero(m: float, p: float, m0: float, p0: float) -> None:
    got = delta_f(m, p, prior_mean=m0, prior_precision=p0, reduced_mean=m0, reduced_precision=p0)
    assert got.item() == 0
    mean, precision = reduced_posterior(
        m, p, prior_mean=0.0, prior_precision=p0, reduced_mean=0.0, reduced_precision=p0
    )
    assert mean.item() == pytest.approx(m, rel=1e-12)
    assert precision.item() == p


@given(location, positive, location, positive, location, positive, st.floats(-3, 3).map(lambda e: 10.0**e))
def test_rescaling_a_weight_with_its_priors_changes_nothing(
    m: float, learned: float, m0: float, p0: float, r0: float, r: float, scale: float
) -> None:
    p = p0 + learned
    original = delta_f(m, p, prior_mean=m0, prior_precision=p0, reduced_mean=r0, reduced_precision=r)
    rescaled = delta_f(
        scale * m,
        p / scale**2,
        prior_mean=scale * m0,
        prior_precision=p0 / scale**2,
        reduced_mean=scale * r0,
        reduced_precision=r / scale**2,
    )
    size = 1 + (p * (m - r0) ** 2 + p0 * (m0 - r0) ** 2) * (r + p) / (r + learned)
    assert rescaled.item() == pytest.approx(original.item(), abs=1e-13 * size * (1 + p / learned))


@given(location, positive, location, positive, location, positive, location, positive | st.just(math.inf))
@settings(max_examples=200)
def test_two_steps_equal_one(
    m: float, learned: float, m0: float, p0: float, r0: float, r: float, t0: float, t: float
) -> None:
    one = {"prior_mean": m0, "prior_precision": p0, "reduced_mean": r0, "reduced_precision": r}
    two = {"prior_mean": r0, "prior_precision": r, "reduced_mean": t0, "reduced_precision": t}
    whole = {**one, "reduced_mean": t0, "reduced_precision": t}
    p = p0 + learned
    halfway = reduced_posterior(m, p, **one)
    stepwise = delta_f(m, p, **one) + delta_f(*halfway, **two)
    size = (1 + (p + r) * 100) * (1 + max(p, r) / learned)  # of the largest term, and of P - P0 cancelling
    assert stepwise.item() == pytest.approx(delta_f(m, p, **whole).item(), abs=1e-13 * size)
    mean, precision = reduced_posterior(*halfway, **two)
    mean_once, precision_once = reduced_posterior(m, p, **whole)
    assert precision.item() == pytest.approx(precision_once.item(), rel=1e-14 * size)
    assert mean.item() == pytest.approx(mean_once.item(), abs=1e-13 * size)


@given(st.permutations(list(range(5))))
def test_permuting_weights_permutes_evidence(order: list[int]) -> None:
    columns = [torch.tensor(column, dtype=FLOAT64) for column in zip(*CASES, strict=True)]
    m, p, m0, p0, r0, r = columns

    def evidence(index: list[int]) -> torch.Tensor:
        return delta_f(
            m[index],
            p[index],
            prior_mean=m0[index],
            prior_precision=p0[index],
            reduced_mean=r0[index],
            reduced_precision=r[index],
        )

    assert torch.equal(evidence(order), evidence(list(range(5)))[order])


def test_gradients_are_those_of_finite_differences() -> None:
    columns = [torch.tensor(column, dtype=FLOAT64, requires_grad=True) for column in zip(*CASES, strict=True)]

    def evidence(*v: torch.Tensor) -> torch.Tensor:
        return delta_f(
            v[0],
            v[1],
            prior_mean=v[2],
            prior_precision=v[3],
            reduced_mean=v[4],
            reduced_precision=torch.where(torch.arange(5) == 1, math.inf, v[5]),
        )

    assert torch.autograd.gradcheck(evidence, columns)
    assert torch.autograd.gradgradcheck(evidence, columns)


def test_point_masses_and_gaussians_mix_in_one_tensor() -> None:
    reduced = torch.tensor([math.inf, 30.0, math.inf], dtype=FLOAT64)
    mixed = delta_f(0.2, 9.0, prior_precision=2.0, reduced_precision=reduced)
    pinned = delta_f(0.2, 9.0, prior_precision=2.0)
    soft = delta_f(0.2, 9.0, prior_precision=2.0, reduced_precision=30.0)
    torch.testing.assert_close(mixed, torch.stack([pinned, soft, pinned]))


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_broadcasts_and_keeps_the_dtype(dtype: torch.dtype) -> None:
    mean, precision = torch.zeros(3, 1, dtype=dtype), torch.full((4,), 9.0, dtype=dtype)
    value = delta_f(mean, precision, prior_precision=1.0)
    assert value.shape == (3, 4)
    assert value.dtype == dtype
    torch.testing.assert_close(value, torch.full((3, 4), math.log(3.0), dtype=dtype))
    assert all(part.shape == (3, 4) for part in reduced_posterior(mean, precision, prior_precision=1.0))


def test_half_precision_is_raised_and_plain_numbers_are_float64() -> None:
    half = torch.tensor([0.5], dtype=torch.bfloat16)
    assert delta_f(half, 4.0, prior_precision=1.0).dtype == torch.float32
    assert delta_f(0.5, 4, prior_precision=1).dtype == FLOAT64


@pytest.mark.parametrize("form", ["point mass", "pinned elsewhere", "gaussian", "tensor priors"])
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_streaming_in_chunks_changes_no_number(
    form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    mean = torch.randn(7, 11, dtype=dtype, generator=generator)
    precision = 5 + torch.rand(7, 11, dtype=dtype, generator=generator)
    keywords: dict[str, torch.Tensor | float] = {
        "point mass": {"prior_precision": 2.0},
        "pinned elsewhere": {"prior_precision": 2.0, "reduced_mean": 0.3, "prior_mean": -0.2},
        "gaussian": {"prior_precision": 2.0, "reduced_precision": 30.0, "reduced_mean": 0.3},
        "tensor priors": {"prior_precision": precision / 2, "reduced_precision": precision + 1},
    }[form]
    whole = delta_f(mean, precision, **keywords)
    monkeypatch.setattr(_streaming, "ROW_SIZE", 10)
    monkeypatch.setattr(_streaming, "CHUNK_SIZE", 3 * 10)
    torch.testing.assert_close(delta_f(mean, precision, **keywords), whole)
    # A transposed tensor is not one run of memory; it must take the other way and agree.
    if not isinstance(keywords["prior_precision"], torch.Tensor):
        torch.testing.assert_close(delta_f(mean.T, precision.T, **keywords), whole.T)


def test_streaming_takes_numbers_shared_by_all_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, precision = torch.linspace(-1, 1, 50, dtype=FLOAT64), torch.linspace(5, 9, 50, dtype=FLOAT64)
    whole = [delta_f(mean, 6.0, prior_precision=2.0), delta_f(0.3, precision, prior_precision=2.0)]
    monkeypatch.setattr(_streaming, "ROW_SIZE", 16)
    monkeypatch.setattr(_streaming, "CHUNK_SIZE", 3 * 16)
    chunked = [delta_f(mean, 6.0, prior_precision=2.0), delta_f(0.3, precision, prior_precision=2.0)]
    torch.testing.assert_close(chunked, whole)


def test_no_weights_no_evidence() -> None:
    assert delta_f(torch.empty(0, 3), 1.0, prior_precision=1.0).shape == (0, 3)


@pytest.mark.parametrize("chunk_size", [2, 1000])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("precision", 0.0, "precision must be positive and finite, got 0 at index (1, 2)"),
        ("precision", -1.0, "precision must be positive and finite, got -1 at index (1, 2)"),
        ("precision", math.inf, "precision must be positive and finite, got inf at index (1, 2)"),
        ("precision", math.nan, "precision must be positive and finite, got nan at index (1, 2)"),
        ("mean", math.nan, "mean must be finite, got nan at index (1, 2)"),
        ("mean", -math.inf, "mean must be finite, got -inf at index (1, 2)"),
        ("prior_precision", -2.0, "prior_precision must be positive and finite, got -2 at index (1, 2)"),
        ("prior_mean", math.nan, "prior_mean must be finite, got nan at index (1, 2)"),
        ("reduced_mean", math.inf, "reduced_mean must be finite, got inf at index (1, 2)"),
        ("reduced_precision", 0.0, "reduced_precision must be positive (inf for a point mass), got 0"),
        ("reduced_precision", math.nan, "reduced_precision must be positive (inf for a point mass), got nan"),
    ],
)
def test_bad_values_name_the_argument_and_the_first_index(
    name: str, value: float, message: str, chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_streaming, "ROW_SIZE", chunk_size)
    monkeypatch.setattr(_streaming, "CHUNK_SIZE", 3 * chunk_size)
    values = {
        "mean": torch.zeros(3, 4),
        "precision": torch.full((3, 4), 9.0),
        "prior_precision": torch.ones(3, 4),
        "reduced_precision": torch.full((3, 4), 2.0),
        "prior_mean": torch.zeros(3, 4),
        "reduced_mean": torch.zeros(3, 4),
    }
    values[name][1, 2:] = value
    mean, precision = values.pop("mean"), values.pop("precision")
    for function in (delta_f, reduced_posterior):
        with pytest.raises(InvalidArgumentError, match=re.escape(message)):
            function(mean, precision, **values)


@pytest.mark.parametrize("function", [delta_f, reduced_posterior])
def test_a_reduction_that_is_not_nested_is_refused(function: object) -> None:
    precision = torch.tensor([5.0, 1.0, 1.0])
    with pytest.raises(NotNestedError, match=r"reduced_precision must be above .* got 1 at index \(1,\)"):
        function(torch.zeros(3), precision, prior_precision=2.0, reduced_precision=1.0)  # type: ignore[operator]
    with pytest.raises(InvalidArgumentError, match=r"prior_precision must be positive and finite, got -2$"):
        function(torch.zeros(3), precision, prior_precision=-2.0)  # type: ignore[operator]


def test_shapes_that_do_not_broadcast_name_the_argument() -> None:
    with pytest.raises(InvalidArgumentError, match=r"precision must have a shape .* \(3,\), got \(4,\)"):
        delta_f(torch.zeros(3), torch.ones(4), prior_precision=1.0)


def test_overflow_is_told_from_bad_input() -> None:
    assert delta_f(1e200, 1.0, prior_precision=1.0).item() == -math.inf
    with pytest.raises(InvalidArgumentError, match=r"mean must be small enough for torch\.float64"):
        delta_f(1e200, 2.0, prior_mean=1e200, prior_precision=1.0)


@pytest.mark.gpu
def test_a_device_changes_no_number(generator: torch.Generator) -> None:
    mean, precision = torch.randn(50, generator=generator), 5 + torch.rand(50, generator=generator)
    reduced = torch.where(torch.arange(50) % 2 == 0, math.inf, 12.0)
    here = delta_f(mean, precision, prior_precision=2.0, reduced_precision=reduced)
    there = delta_f(mean.cuda(), precision.cuda(), prior_precision=2.0, reduced_precision=reduced.cuda())
    torch.testing.assert_close(there.cpu(), here)
