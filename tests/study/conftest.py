"""Directories of runs that could have been, one for each network of the main comparison."""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("synthetic_run", Path(__file__).with_name("synthetic_run.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


@pytest.fixture
def write_run():
    """The function that writes a run's files."""
    return _module.write_run


@pytest.fixture
def run_dir(tmp_path):
    """A finished LeNet run without its report."""
    return _module.write_run(tmp_path / "run")
