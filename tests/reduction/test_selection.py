"""Selection without sorting chooses exactly what a stable sort would."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction import select_largest, selection


def by_sorting(values: list[Tensor], count: int) -> list[Tensor]:
    together = torch.cat([each.reshape(-1) for each in values])
    chosen = torch.zeros(together.shape, dtype=torch.bool)
    chosen[torch.argsort(together, descending=True, stable=True)[:count]] = True
    parts = chosen.split([each.numel() for each in values])
    return [part.view(each.shape) for part, each in zip(parts, values, strict=True)]


def assert_as_sorted(values: list[Tensor], count: int) -> None:
    for found, expected in zip(select_largest(values, count), by_sorting(values, count), strict=True):
        assert torch.equal(found, expected)


@given(
    st.lists(
        st.lists(
            st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.5, math.inf, -math.inf, math.nan])
            | st.floats(width=32),
            max_size=12,
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([torch.float32, torch.float64]),
    st.data(),
)
def test_any_numbers_and_ties(lists: list[list[float]], dtype: torch.dtype, data: st.DataObject) -> None:
    values = [torch.tensor(each, dtype=dtype) for each in lists]
    assert_as_sorted(values, data.draw(st.integers(0, sum(map(len, lists)))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.95])
def test_across_chunks(
    dtype: torch.dtype, share: float, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "CHUNK_SIZE", 1000)
    normal = torch.randn(70, 90, generator=generator, dtype=dtype)
    tied = torch.randint(-3, 4, (40, 50), generator=generator).to(dtype)
    close = 1 + torch.finfo(dtype).eps * torch.randint(9, (5001,), generator=generator).to(dtype)
    values = [normal.t(), tied, close, torch.empty(0, dtype=dtype), -normal[0]]
    assert_as_sorted(values, int(share * sum(each.numel() for each in values)))


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_among_some_entries_only(
    share: float, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "CHUNK_SIZE", 100)
    values = [torch.randint(9, (30, 40), generator=generator).float(), torch.randn(777, generator=generator)]
    among = [torch.rand(each.shape, generator=generator) > 0.3 for each in values]
    count = int(share * sum(int(each.sum()) for each in among))
    found = select_largest(values, count, among=among)
    expected = by_sorting([each[place] for each, place in zip(values, among, strict=True)], count)
    for chosen, place, inside in zip(found, among, expected, strict=True):
        assert torch.equal(chosen[place], inside)
        assert not chosen[~place].any()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="count: expected 0 to 3"):
        select_largest([torch.zeros(3)], 4)
    with pytest.raises(InvalidArgumentError, match=r"one dtype, float32 or float64, got torch\.float64"):
        select_largest([torch.zeros(3), torch.zeros(3, dtype=torch.float64)], 2)
    with pytest.raises(InvalidArgumentError, match=r"got torch\.float16"):
        select_largest([torch.zeros(3, dtype=torch.float16)], 2)
