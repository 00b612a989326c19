"""The largest relative difference of outputs, and networks in double precision."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from secateur.modules import call, in_double, largest_relative_difference
from support.networks import TRANSFORMERS, mlp

NAN, INF = math.nan, math.inf


def tensors(*values: float) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        (tensors(1.0, -4.0), tensors(1.0, -4.0), 0.0),
        (tensors(1.0, -4.0), tensors(1.5, -4.0), 0.125),
        (
            (tensors(8.0), {"x": tensors(2.0)}),
            (tensors(8.0), {"x": tensors(1.0)}),
            0.5,
        ),
        (tensors(1.0), tensors(1.0, 1.0), INF),
        (tensors(1.0), (tensors(1.0), tensors(1.0)), INF),
        (tensors(1.0, NAN), tensors(1.0, 2.0), INF),
        (tensors(1.0, 2.0), tensors(1.0, NAN), INF),
        (tensors(2.0, NAN), tensors(1.0, NAN), 0.5),
        (tensors(2.0, -INF), tensors(1.0, -INF), 0.5),
        (tensors(2.0, -INF), tensors(2.0, INF), INF),
        (torch.tensor([1, 4]), torch.tensor([1, 6]), 2.0),
        (torch.tensor([True]), torch.tensor([False]), 1.0),
        (torch.tensor([3 + 4j]), torch.tensor([3 + 5j]), 0.2),
        (torch.tensor([4.0], dtype=torch.bfloat16), torch.tensor([5.0]), 0.25),
        (torch.empty(0), torch.empty(0), 0.0),
        (("words", 3), ("other", 4), 0.0),
    ],
)
def test_largest_relative_difference(expected, found, difference: float) -> None:
    assert largest_relative_difference(expected, found) == pytest.approx(difference, abs=1e-15)


def test_zeros_agree_with_zeros_alone() -> None:
    assert largest_relative_difference(torch.zeros(3), torch.zeros(3)) == 0
    assert largest_relative_difference(torch.zeros(3), tensors(0, 0, 1e-9)) > 1e3


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_outputs_of_transformers_are_compared(name: str) -> None:
    tiny = TRANSFORMERS[name]
    model, example = tiny.build().eval(), tiny.example()
    other = copy.deepcopy(model)
    assert largest_relative_difference(call(model, example), call(other, example)) == 0
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    assert largest_relative_difference(call(model, example), call(other, example)) > 1e-3


def test_a_network_in_double() -> None:
    model = mlp()
    precise, example = in_double(model, ({"input": torch.randn(2, 5)}))
    assert not precise.training
    assert model.training
    assert call(precise, example).dtype == torch.float64
    assert model[0].weight.dtype == torch.float32


def test_a_network_that_insists_on_its_precision() -> None:
    class Single(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.float())

    example = torch.randn(2, 3)
    same, given = in_double(Single(3, 2), example)
    assert same.weight.dtype == torch.float32
    assert given is example
