"""The spike-and-slab decision against a naive transcription of its fixed point."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma, expit

from secateur.errors import InvalidArgumentError
from secateur.reduction import _streaming, spike_and_slab, spike_and_slab_log_odds
from secateur.reduction._validation import first_index

FLOAT64 = torch.float64


def naive_log_odds(delta_f: list[float], num_removed: int, alpha: float, beta: float, steps: int) -> float:
    zeta = digamma(alpha) - digamma(beta + num_removed)
    for _ in range(steps):
        q = [expit(zeta - d) for d in delta_f]
        zeta = digamma(alpha + sum(q)) - digamma(beta + num_removed + sum(1 - v for v in q))
    return float(zeta)


@given(
    st.lists(st.floats(-50, 10), max_size=20),
    st.integers(0, 100),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
    st.integers(0, 6),
)
def test_follows_the_fixed_point_iteration(
    evidence: list[float], num_removed: int, alpha: float, beta: float, steps: int
) -> None:
    delta_f = torch.tensor(evidence, dtype=FLOAT64)
    got = spike_and_slab(delta_f, num_removed=num_removed, alpha=alpha, beta=beta, num_iterations=steps)
    zeta = naive_log_odds(evidence, num_removed, alpha, beta, steps)
    assert got.log_odds.item() == pytest.approx(zeta, abs=1e-10)
    torch.testing.assert_close(got.keep_probability, torch.sigmoid(got.log_odds - delta_f))
    assert torch.equal(got.keep, delta_f <= got.log_odds)


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_streaming_in_chunks_changes_no_decision(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    delta_f = 4 * torch.randn(13, 21, dtype=dtype, generator=generator) - 1
    whole = spike_and_slab(delta_f, num_removed=40)
    monkeypatch.setattr(_streaming, "ROW_SIZE", 10)
    monkeypatch.setattr(_streaming, "CHUNK_SIZE", 3 * 10)
    chunked = spike_and_slab(delta_f, num_removed=40)
    torch.testing.assert_close(chunked.keep_probability, whole.keep_probability)
    torch.testing.assert_close(chunked.log_odds, whole.log_odds)
    assert torch.equal(chunked.keep, whole.keep)


def test_the_sparser_the_layer_the_more_evidence_a_weight_must_show() -> None:
    """At 95 % sparsity a weight must show about three nats."""
    delta_f = torch.full((1000,), -30.0, dtype=FLOAT64)
    thresholds = [spike_and_slab(delta_f, num_removed=n).log_odds.item() for n in (0, 1000, 19000)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[-1] == pytest.approx(math.log(0.05 / 0.95), abs=0.01)


def test_certain_weights_and_an_empty_layer() -> None:
    certain = spike_and_slab(torch.tensor([-math.inf, math.inf]))
    assert certain.keep.tolist() == [True, False]
    assert certain.keep_probability.tolist() == [1.0, 0.0]
    assert certain.log_odds.item() == pytest.approx(0.0)
    empty = spike_and_slab(torch.empty(0), num_removed=10)
    assert empty.keep.shape == (0,)
    assert empty.log_odds.isfinite()


def test_is_differentiable() -> None:
    delta_f = torch.tensor([-3.0, 0.5, 2.0], dtype=FLOAT64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: spike_and_slab(d).keep_probability, [delta_f])


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("chunk_size", [2, 1000])
def test_nan_is_refused_with_its_index(steps: int, chunk_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_streaming, "ROW_SIZE", chunk_size)
    monkeypatch.setattr(_streaming, "CHUNK_SIZE", 3 * chunk_size)
    delta_f = torch.zeros(2, 3)
    delta_f[1, 1:] = math.nan
    with pytest.raises(
        InvalidArgumentError, match=r"delta_f must be a number of nats, got nan at index \(1, 1\)"
    ):
        spike_and_slab(delta_f, num_iterations=steps)


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", 0.0), ("beta", math.nan), ("num_removed", -1), ("num_iterations", -1)]
)
def test_counts_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError, match=name):
        spike_and_slab(torch.zeros(3), **{name: value})  # type: ignore[arg-type]


def test_first_index_is_row_major() -> None:
    assert first_index(torch.tensor([[False, False], [True, True]])) == (1, 0)
    assert first_index(torch.tensor(True)) == ()


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
@pytest.mark.parametrize("chunk_size", [100, 1 << 20])
@pytest.mark.parametrize("num_removed", [0, 30_000])
def test_iterates_to_the_fixed_point(
    dtype: torch.dtype,
    chunk_size: int,
    num_removed: int,
    monkeypatch: pytest.MonkeyPatch,
    generator: torch.Generator,
) -> None:
    """By a histogram or in full: the first fixed point that the plain iteration comes to."""
    monkeypatch.setattr(_streaming, "ROW_SIZE", chunk_size)
    monkeypatch.setattr(_streaming, "CHUNK_SIZE", 3 * chunk_size)
    spread = torch.randn(2, 4000, dtype=FLOAT64, generator=generator)
    delta_f = torch.cat([spread[0] * 6 - 12, spread[1] + 2]).to(dtype)
    zeta = digamma(1.0) - digamma(1.0 + num_removed)
    for _ in range(500):
        kept = expit(zeta - delta_f.double().numpy()).sum()
        zeta = digamma(1 + kept) - digamma(1 + num_removed + len(delta_f) - kept)
    found = spike_and_slab(delta_f, num_removed=num_removed)
    assert found.log_odds.item() == pytest.approx(zeta, abs=2e-6 if dtype == torch.float32 else 1e-9)
    assert torch.equal(found.keep, delta_f <= found.log_odds)
    assert spike_and_slab_log_odds(delta_f, num_removed=num_removed) == found.log_odds
    four = spike_and_slab(delta_f, num_removed=num_removed, num_iterations=4).log_odds.item()
    assert abs(four - zeta) > 1e-5  # or the iteration would have nothing to go on with
