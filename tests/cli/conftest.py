"""The command line run inside the test process, and finished runs to run it on."""

import shutil

import pytest
import torch
from typer.testing import CliRunner


@pytest.fixture
def secateur(monkeypatch):
    """Run the command line: words in, result out."""
    from secateur.cli import app

    monkeypatch.delenv("SECATEUR_DEBUG", raising=False)
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    return lambda *words: CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(scope="session")
def _trained(tmp_path_factory):
    """A run of one epoch on the digits, with nine weights in ten out: files as the real thing writes them."""
    import secateur
    from secateur.training.prune_run import prune_run

    folder = tmp_path_factory.mktemp("runs")
    with torch.random.fork_rng(devices=[]):
        secateur.fit(
            "lenet", "digits", epochs=1, num_samples=2, device="cpu", compile=False, out=folder / "all"
        )
    half = {"sparsity": 0.5, "granularity": "channel"}  # so that there are dead units
    prune_run(folder / "all", out=folder / "half", **half, rounds=2, num_samples=1)
    prune_run(folder / "half", out=folder / "tenth", sparsity=0.9, rounds=2, num_samples=2)
    return folder


@pytest.fixture
def trained(_trained, tmp_path):
    """A copy of that run, to write into; beside it is the one it came from, `all`, with all its weights."""
    shutil.copytree(_trained, tmp_path / "runs")
    return tmp_path / "runs" / "tenth"
