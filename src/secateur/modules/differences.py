"""How far outputs of two networks are apart."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.modules.inputs import call, map_tensors

__all__ = ["in_double", "largest_relative_difference"]

_SMALLEST_SCALE = 1e-30


def largest_relative_difference(expected: Any, found: Any) -> float:
    """Return the largest difference of two nests of tensors, relative to the largest finite entry expected.

    Each tensor has a scale of its own; integers and booleans are compared on the scale 1. Places where both
    are nan, or the same infinity, agree. What is no tensor is not compared.

    Args:
        expected: Nest of tensors, such as a network's output.
        found: Nest of as many tensors; `inf` is returned where number or shapes differ, or where one of
            two entries is not finite.
    """
    pairs = [
        [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, Tensor)] for nest in (expected, found)
    ]
    if len(pairs[0]) != len(pairs[1]):
        return math.inf
    return max((_difference(a, b) for a, b in zip(*pairs, strict=True)), default=0.0)


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    kind = torch.complex128 if expected.is_complex() or found.is_complex() else torch.float64
    a, b = expected.detach().cpu().to(kind), found.detach().cpu().to(kind)
    agree = (a == b) | (a.isnan() & b.isnan())
    difference = float((a - b).abs().masked_fill(agree, 0.0).max())
    if math.isnan(difference):
        return math.inf
    exact = not (expected.is_floating_point() or expected.is_complex())
    scale = 1.0 if exact else float(a.abs().nan_to_num(posinf=0.0).max())
    return difference / max(scale, _SMALLEST_SCALE)


def in_double(model: nn.Module, example: Any) -> tuple[nn.Module, Any]:
    """Return copies of a network and an example in float64, in evaluation mode.

    Where the network insists on its own precision, it is copied with the precision it has, and the example
    is returned unchanged.

    Args:
        model: Network; not changed.
        example: A call's arguments, as for `secateur.modules.inputs.call_arguments`.
    """
    precise = copy.deepcopy(model).eval().double()
    doubled = map_tensors(lambda x: x.double() if x.is_floating_point() else x, example)
    try:
        with torch.no_grad():
            call(precise, doubled)
    except (RuntimeError, TypeError, ValueError):
        return copy.deepcopy(model).eval(), example
    return precise, doubled
