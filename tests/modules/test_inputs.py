"""Example inputs: every form calls a network in the same way."""

from collections import OrderedDict, UserDict

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError
from secateur.modules import batch_size, call, call_arguments, map_tensors, to_device

A, B = torch.arange(6.0).reshape(3, 2), torch.ones(3, 2)


class Difference(nn.Module):
    def forward(self, a: Tensor, b: Tensor = B, *, scale: float = 1.0) -> Tensor:
        return scale * (a - b)


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (A, A - 1),
        ((A,), A - 1),
        ((A, 2 * B), A - 2),
        ({"a": A, "b": 3 * B}, A - 3),
        (UserDict(a=A, scale=2.0), 2 * (A - 1)),  # as a `BatchEncoding` is
        ((A, {"scale": 3.0}), 3 * (A - 1)),
        (((A, 2 * B), {"scale": 3.0}), 3 * (A - 2)),
        (((), {"a": A}), A - 1),
    ],
    ids=["tensor", "one", "two", "named", "mapping", "pair", "pair-of-two", "pair-of-none"],
)
def test_every_form_is_a_call(example, expected: Tensor) -> None:
    assert torch.equal(call(Difference(), example), expected)
    assert torch.equal(call(Difference(), call_arguments(example)), expected)  # which is such a form itself
    assert batch_size(example) == 3


def test_what_is_no_tuple_or_mapping_is_one_argument() -> None:
    assert call_arguments([A, B]) == (([A, B],), {})


def test_a_batch_has_a_size() -> None:
    assert batch_size((torch.tensor(1.0), {"x": A})) == 3
    for nothing in (torch.tensor(1.0), (), {"x": 3}):
        with pytest.raises(InvalidArgumentError, match="expected a tensor, tuple or dict with a batch"):
            batch_size(nothing)


def test_every_tensor_of_a_nest_is_mapped() -> None:
    nest = (A, {"b": [B, 3], "c": OrderedDict(d=A)}, UserDict(e=(B, "word")))
    found = map_tensors(lambda x: x + 1, nest)
    assert isinstance(found, tuple)
    assert torch.equal(found[0], A + 1)
    assert torch.equal(found[1]["b"][0], B + 1)
    assert found[1]["b"][1] == 3
    assert torch.equal(found[1]["c"]["d"], A + 1)
    assert torch.equal(found[2]["e"][0], B + 1)
    assert found[2]["e"][1] == "word"


def test_examples_move_between_devices() -> None:
    moved = to_device(({"a": A}, UserDict(b=B)), "meta")
    assert moved[0]["a"].is_meta
    assert moved[1]["b"].is_meta
