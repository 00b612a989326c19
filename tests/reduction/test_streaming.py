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
def test_every_element_is_visited_once_and_in_order(
    size: int, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_streaming, "CHUNK_SIZE", 10)
    visits = torch.zeros(size, dtype=torch.int64)

    def work(chunk: slice) -> float:
        visits[chunk] += 1
        return float(chunk.start)

    assert _streaming.over_chunks(work, size) == [float(start) for start in range(0, size, 10)]
    assert (visits == 1).all()


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
    precision = torch.linspace(5, 9, 2 * _streaming.CHUNK_SIZE)
    expected = spike_and_slab(delta_f(0.1, precision, prior_precision=0.5))
    with torch.inference_mode():
        got = spike_and_slab(delta_f(0.1, precision, prior_precision=0.5))
    assert torch.equal(got.keep_probability.clone(), expected.keep_probability)


def test_an_error_in_a_thread_reaches_the_caller(num_threads: int) -> None:
    def work(chunk: slice) -> float:
        raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        _streaming.over_chunks(work, 4 * _streaming.CHUNK_SIZE)
