"""A fresh network takes the shapes of a smaller one; what does not fit is refused and changes nothing.

That every kind of network can be rebuilt is in tests/conformance/test_compaction.py.
"""

import json

import pytest
import torch
from torch import nn

from secateur.compaction import changed_widths, compact, resize_like
from secateur.errors import InvalidArgumentError


def network(*, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 2, bias=bias))


def test_a_bias_that_took_up_constants_is_added() -> None:
    model = network(bias=False)
    with torch.no_grad():
        model[0].weight[:2] = 0
    small, fresh = compact(model, torch.randn(2, 4)), network(bias=False)
    widths = changed_widths(small, fresh)
    assert widths == {"0.out_features": 4, "2.in_features": 4}
    shapes = {name: list(tensor.shape) for name, tensor in small.state_dict().items()}
    shapes, widths = json.loads(json.dumps([shapes, widths]))
    resize_like(fresh, shapes, widths)
    fresh.load_state_dict(small.state_dict())
    x = torch.randn(5, 4)
    assert torch.equal(fresh(x), small(x))


@pytest.mark.parametrize(
    ("shapes", "widths", "message"),
    [
        ({"3.weight": [2, 2]}, {}, "got 3.weight"),
        ({"0.weight": [2]}, {}, r"expected 2 axes for 0.weight, got \[2\]"),
        ({}, {"0.colour": 3}, "got 0.colour"),
        ({}, {"9.in_features": 3}, "got 9.in_features"),
        ({"0.bias": [2]}, {"0.weight": 3}, "got 0.weight"),
    ],
)
def test_what_does_not_fit_changes_nothing(
    shapes: dict[str, list[int]], widths: dict[str, int], message: str
) -> None:
    model = network()
    with pytest.raises(InvalidArgumentError, match=message):
        resize_like(model, shapes, widths)
    assert [tuple(p.shape) for p in model.parameters()] == [tuple(p.shape) for p in network().parameters()]
