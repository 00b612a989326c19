"""Comparison of nested states."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["assert_same"]


def assert_same(found: Any, expected: Any, place: str = "") -> None:
    """Demand equal numbers, bit for bit, and say where the first difference is."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected:
            assert_same(found[key], expected[key], f"{place}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{place}.{number}")
    elif isinstance(expected, Tensor):
        assert torch.equal(found, expected), place
    else:
        assert found == expected, place
