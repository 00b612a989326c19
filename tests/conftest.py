"""Shared by all tests: nothing is random but by a seed in the test itself."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Tests have no packages (`--import-mode=importlib`), so `support` has to be found by a path.
sys.path.insert(0, str(Path(__file__).parent))

# The same examples in every run, and no deadline: the machines that run this are shared and noisy.
settings.register_profile("secateur", deadline=None, derandomize=True, database=None)
settings.load_profile("secateur")


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator of its own for each test."""
    return torch.Generator().manual_seed(20230912)


@pytest.fixture
def write_run():
    """The function that writes the files of a run that could have been."""
    from support import synthetic_run

    return synthetic_run.write_run


@pytest.fixture
def run_dir(tmp_path, write_run):
    """A finished LeNet run without its report."""
    return write_run(tmp_path / "run")
