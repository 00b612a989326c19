"""Shared by all tests: nothing is random but by a seed in the test itself."""

import pytest
import torch


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator of its own for each test."""
    return torch.Generator().manual_seed(20230912)
