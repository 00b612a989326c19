"""The command line run inside the test process, and directories of finished runs to run it on."""

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

_path = Path(__file__).parents[1] / "study" / "synthetic_run.py"
_spec = importlib.util.spec_from_file_location("synthetic_run", _path)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


@pytest.fixture
def write_run():
    """The function that writes a finished run's files."""
    return _module.write_run


@pytest.fixture
def run_dir(tmp_path):
    """A finished LeNet run without its report."""
    return _module.write_run(tmp_path / "run")


@pytest.fixture
def secateur(monkeypatch):
    """Run the command line: words in, result out."""
    from secateur.cli import app

    monkeypatch.delenv("SECATEUR_DEBUG", raising=False)
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    return lambda *words: CliRunner().invoke(app, list(map(str, words)))
