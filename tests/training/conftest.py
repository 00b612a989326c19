"""A fit small enough to run hundreds of times, and ways to interrupt and compare it."""

import json
from types import SimpleNamespace

import pytest
import torch

import secateur
from secateur.data import Split, load
from secateur.networks.mlp import MLP
from secateur.pruning import schedule
from secateur.training import SilentProgress

NOT_REPEATABLE = {"seconds", "seconds_per_iteration"}


class StopAt(SilentProgress):
    """Is Ctrl-C at one step of the run."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, step: int, loss: float | None = None) -> None:
        if step == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="session")
def digits():
    """The embedded digits, few enough for epochs of some milliseconds."""
    full = load("digits")
    part = lambda split, n: Split(split.images[:n], split.labels[:n])  # noqa: E731
    return SimpleNamespace(full=full, train=part(full.train, 320), test=part(full.test, 100))


@pytest.fixture
def early_reductions(monkeypatch):
    """Let warm-up take an epoch of the small data, and reductions follow after each."""
    monkeypatch.setattr(schedule, "STEPS_OF_WARM_UP", 20)
    monkeypatch.setattr(schedule, "STEPS_BETWEEN_REDUCTIONS", 10)


@pytest.fixture
def tiny():
    """Build a small network, the same one each time."""

    def build(*, seed: int = 0, dropout: float = 0.0, width: int = 16) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MLP((1, 8, 8), 10, width=width, depth=2, dropout=dropout)

    return build


@pytest.fixture
def fit(digits, tiny, early_reductions):
    """Fit the small network to the small data, five epochs of twenty steps."""

    def run(network=None, train=None, **options):
        given = {"test": digits.test, "epochs": 5, "device": "cpu", "num_samples": 4, "compile": False}
        dropout = 0.2 if options.get("method") == "flat-map" else 0.0
        return secateur.fit(
            tiny(dropout=dropout) if network is None else network,
            digits.train if train is None else train,
            **given | options,
        )

    return run


@pytest.fixture(scope="session")
def stop_at():
    return StopAt


@pytest.fixture(scope="session")
def contents():
    """Read every file of a directory: name to bytes."""
    return lambda path: {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def repeatable():
    """Read all of a run that the same seed must give again, bit for bit."""

    def read(out):
        drop = lambda row: {key: value for key, value in row.items() if key not in NOT_REPEATABLE}  # noqa: E731
        history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
        return {
            "model": (out / "model.safetensors").read_bytes(),
            "posterior": (out / "posterior.safetensors").read_bytes(),
            "history": [drop(row) for row in history],
            "metrics": drop(json.loads((out / "metrics.json").read_text())),
            "config": json.loads((out / "config.json").read_text()),
        }

    return read
