"""Directories of runs that could have been, one for each network of the main comparison."""

import pytest

from support import synthetic_run


@pytest.fixture
def write_run():
    """The function that writes a run's files."""
    return synthetic_run.write_run


@pytest.fixture
def run_dir(tmp_path):
    """A finished LeNet run without its report."""
    return synthetic_run.write_run(tmp_path / "run")
