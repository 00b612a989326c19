"""Blocks: a vector cut into parts is the same vector, and an optimiser in parts takes the same steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.errors import InvalidArgumentError
from secateur.inference import IVON, Calibrated, block
from secateur.inference.block import ParameterBlock


def network() -> nn.Module:
    """With parameters that are not contiguous, longer and shorter than a part."""
    layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(32, 5)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_parts_cover_the_vector_in_order(sizes: list[int]) -> None:
    parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "UNDIVIDED", 10)
        patch.setattr(block, "PART_SIZE", 16)
        cut = ParameterBlock([str(i) for i in range(len(sizes))], parameters, divided=True)
    covered = [index for part in cut.parts for index in range(part.span.start, part.span.stop)]
    assert covered == list(range(sum(sizes)))
    for part in cut.parts:
        assert sum(last - first for _, first, last in part.pieces) == part.span.stop - part.span.start
    assert len(cut.parts) == (1 if 0 < sum(sizes) <= 10 else -(-sum(sizes) // 16))


def test_parts_are_read_and_written_whatever_the_layout_in_memory(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr(block, "UNDIVIDED", 0)
    monkeypatch.setattr(block, "PART_SIZE", 64)
    names, parameters = zip(*network().named_parameters(), strict=True)
    cut = ParameterBlock(names, parameters, divided=True)
    assert len(cut.parts) > 20
    expected = torch.randn(cut.num_weights, generator=generator)
    for part in cut.parts:
        cut.write(expected[part.span], part)
    assert torch.equal(cut.read(), expected)
    for part in cut.parts:
        assert torch.equal(cut.mean_of(part), expected[part.span])


@pytest.mark.parametrize("kind", [Calibrated, IVON])
@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_an_optimiser_in_parts_takes_the_same_steps(
    kind: type[Calibrated] | type[IVON], noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for undivided in (1 << 21, 0):
        monkeypatch.setattr(block, "UNDIVIDED", undivided)
        monkeypatch.setattr(block, "PART_SIZE", 128)
        torch.manual_seed(0)
        model, x = network(), torch.randn(4, 3, 6, 6)
        optimizer = kind(
            model.named_parameters(),
            lr=1e-3,
            num_data=50,
            noise=noise,
            generator=torch.Generator().manual_seed(1),
        )
        for step in range(5):
            if step == 3:
                optimizer.hold({"0.weight": torch.arange(432).reshape(16, 3, 3, 3) % 3 > 0})
            with optimizer.sampled_parameters():
                optimizer.zero_grad()
                model(x).square().mean().backward()
            optimizer.step()
            with torch.no_grad(), optimizer.sampled_parameters():
                model(x)
        posterior = optimizer.posterior()
        found.append([*posterior.mean.values(), *posterior.precision.values(), posterior.keep["0.weight"]])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_masks_with_nan_are_refused() -> None:
    model = nn.Linear(2, 1)
    optimizer = Calibrated(model.named_parameters(), num_data=5)
    with pytest.raises(InvalidArgumentError, match=r"masks\['weight'\]: expected True where .* got nan"):
        optimizer.hold({"weight": torch.tensor([[1.0, float("nan")]])})
    assert optimizer.posterior().keep == {}
