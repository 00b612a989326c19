"""N:M patterns: what may go, group by group, in every layout of a weight."""

import pytest
import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.modules.matrix import LayerMatrix
from secateur.pruning.patterns import Pattern


def removable(pattern: Pattern, costs: Tensor, *, transposed: bool = False) -> Tensor:
    """What may go of a weight, in the weight's own shape."""
    shape = tuple(costs.shape)
    matrix = LayerMatrix.of(["fc.weight"], [shape], transposed=transposed)
    flat = pattern.removable(matrix.pack({"fc.weight": costs}), shape, matrix)
    return matrix.unpack(flat)["fc.weight"]


@pytest.mark.parametrize(("text", "kept", "size"), [("2:4", 2, 4), ("1:4", 1, 4), ("7:16", 7, 16)])
def test_a_text_names_a_pattern(text, kept, size):
    pattern = Pattern.parse(text)
    assert (pattern.kept, pattern.size) == (kept, size)
    assert pattern.sparsity == 1 - kept / size


@pytest.mark.parametrize(
    "text", ["", "4", "2:", "4:2", "4:4", "0:4", "-1:4", "2:4:8", "a:b", " 2:4", "2.0:4"]
)
def test_any_other_text_is_refused(text):
    with pytest.raises(InvalidArgumentError, match=r'pattern: expected "N:M" with 0 < N < M, as "2:4", got '):
        Pattern.parse(text)


def test_of_each_group_of_inputs_the_cheapest_may_go():
    costs = torch.tensor([[4.0, 1, 3, 2, 9, 9, 0, 5], [1, 1, 1, 1, 2, 1, 2, 1]])
    found = removable(Pattern(2, 4), costs)
    assert found.int().tolist() == [[0, 1, 0, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 1, 0, 1]]
    assert removable(Pattern(1, 2), costs)[0].int().tolist() == [0, 1, 0, 1, 1, 0, 1, 0]


def by_hand(pattern: Pattern, costs: Tensor) -> Tensor:
    """Groups of consecutive inputs, for each output and each tap of the kernel, one at a time."""
    found = torch.zeros_like(costs, dtype=torch.bool)
    outputs, inputs, *kernel = costs.shape
    for tap in (
        torch.cartesian_prod(*(torch.arange(size) for size in kernel)).reshape(-1, len(kernel)).tolist()
    ):
        for output in range(outputs):
            for start in range(0, inputs, pattern.size):
                group = range(start, start + pattern.size)
                order = sorted(group, key=lambda place: float(costs[output, place, *tap]))
                for place in order[: pattern.size - pattern.kept]:
                    found[output, place, *tap] = True
    return found


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 5), (2, 4, 3, 3)])
@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(1, 4), Pattern(3, 4)])
def test_of_a_convolution_groups_are_channels_at_one_tap(generator, shape, pattern):
    costs = torch.rand(shape, generator=generator)
    expected = by_hand(pattern, costs) if len(shape) > 2 else by_hand(pattern, costs[..., None])[..., 0]
    assert torch.equal(removable(pattern, costs), expected)


@pytest.mark.parametrize("shape", [(8, 3), (4, 2, 3, 3)])
def test_where_inputs_come_first_so_do_groups(generator, shape):
    costs = torch.rand(shape, generator=generator)
    turned = costs.transpose(0, 1)
    expected = removable(Pattern(2, 4), turned.contiguous()).transpose(0, 1)
    assert torch.equal(removable(Pattern(2, 4), costs, transposed=True), expected)


def test_inputs_that_do_not_divide_are_refused_by_name():
    message = r"inputs divide by 4, got 6 inputs in fc\.weight; exclude it"
    with pytest.raises(InvalidArgumentError, match=message):
        removable(Pattern(2, 4), torch.rand(4, 6))
    assert removable(Pattern(2, 4), torch.rand(4, 6), transposed=True).shape == (4, 6)
