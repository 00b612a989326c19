"""Chunks cover a vector once and in order, whatever the number of threads."""

from collections.abc import Iterator

import pytest
import torch

from secateur.reduction import _streaming, delta_f, spike_and_slab


@pytest.fixture(params=[1, 2, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 101])
def test_chunks_cover_a_vector_once_and_in_order(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_streaming, "CHUNK_SIZE", 10)
    found = [index for chunk in _streaming.chunks(size) for index in range(size)[chunk]]
    assert found == list(range(size))
    assert len(list(_streaming.chunks(size))) == -(-size // 10)


def test_a_sum_is_the_same_whatever_the_threads(num_threads: int, generator: torch.Generator) -> None:
    vector = torch.randn(5 * _streaming.ROW_SIZE + 3, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = _streaming.total(vector)
    torch.set_num_threads(before)
    assert _streaming.total(vector) == expected
    assert expected == pytest.approx(vector.double().sum().item(), rel=1e-5)


def test_results_do_not_depend_on_the_threads(num_threads: int, generator: torch.Generator) -> None:
    size = 3 * _streaming.CHUNK_SIZE + 17
    mean, precision = torch.randn(size, generator=generator), 1 + torch.rand(size, generator=generator)
    streamed = delta_f(mean, precision, prior_precision=0.5)
    whole = delta_f(
        mean.clone().requires_grad_(), precision, prior_precision=0.5
    )  # with gradients: not streamed
    torch.testing.assert_close(streamed, whole.detach())
    decision, reference = spike_and_slab(streamed), spike_and_slab(whole)
    torch.testing.assert_close(decision.keep_probability, reference.keep_probability.detach())
    torch.testing.assert_close(decision.log_odds, reference.log_odds.detach())


def test_streams_under_inference_mode(num_threads: int) -> None:
    precision = torch.linspace(5, 9, 2 * _streaming.ROW_SIZE)
    expected = spike_and_slab(delta_f(0.1, precision, prior_precision=0.5))
    with torch.inference_mode():
        got = spike_and_slab(delta_f(0.1, precision, prior_precision=0.5))
    assert torch.equal(got.keep_probability.clone(), expected.keep_probability)
