"""An exported run takes inputs and gives predictions in the data's own units, averaged ones too."""

from pathlib import Path

import onnxruntime
import pytest
import torch

import secateur
from secateur.export.finished_run import export_run
from secateur.training.run import Run

NUM_SAMPLES = 40  # in the graph, whose making takes the time
NUM_DRAWS = 200


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a regression whose inputs and targets are far from standard."""
    folder = tmp_path_factory.mktemp("regression")
    generator = torch.Generator().manual_seed(0)
    x = 1500 + 300 * torch.randn(200, 4, generator=generator)
    y = 4000 - x[:, 0] + 30 * torch.randn(200, generator=generator)
    data = secateur.data.from_arrays(x, y)
    return secateur.fit("mlp-50", data, method="flat-ff", epochs=8, num_samples=2, out=folder / "run")


def exported(run: Run, path: Path, num_samples: int, x: torch.Tensor) -> torch.Tensor:
    assert run.out is not None
    export_run(run.out, to="onnx", out=path, num_samples=num_samples, model=run.model)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found)


@pytest.fixture
def x() -> torch.Tensor:
    return 1500 + 300 * torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def test_the_mean_network_predicts_as_the_run_does(run: Run, x: torch.Tensor, tmp_path: Path) -> None:
    found = exported(run, tmp_path / "mean.onnx", 0, x)
    torch.testing.assert_close(found, run.predict(x, num_samples=0), rtol=1e-4, atol=1e-2)


def test_the_average_is_that_of_the_run_within_its_standard_error(
    run: Run, x: torch.Tensor, tmp_path: Path
) -> None:
    found = exported(run, tmp_path / "average.onnx", NUM_SAMPLES, x)
    draws = torch.stack([run.predict(x, num_samples=1, seed=seed) for seed in range(NUM_DRAWS)])
    error = draws.std(0) * (1 / NUM_SAMPLES + 1 / NUM_DRAWS) ** 0.5
    assert float(error.max()) < 20  # of targets that spread by 300
    assert bool(((found - draws.mean(0)).abs() < 4 * error).all())
