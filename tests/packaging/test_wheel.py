"""The wheel holds all that the library needs, and works far from the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from support.pages import ROOT

SMOKE = """
import secateur, torch
print(secateur.__file__)
model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
inputs = torch.randn(60, 8)
batches = [(inputs[:40], inputs[:40, :3].argmax(1)), (inputs[40:], inputs[40:, :3].argmax(1))]
print(secateur.prune_trained(model, batches, sparsity=0.3, progress=False).num_removed > 0)
secateur.save(model, "saved")
print(torch.allclose(secateur.load("saved")(inputs), model(inputs), atol=1e-5))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh environment with the wheel; other packages are those of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    install = ["install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "packages-of-the-tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv"


def run(command: list[str], cwd: Path) -> str:
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=outside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow  # builds a wheel and starts four processes
def test_the_wheel_works_away_from_the_checkout(environment: Path, tmp_path: Path) -> None:
    where, *said = run([str(environment / "bin" / "python"), "-c", SMOKE], tmp_path).splitlines()
    assert Path(where).is_relative_to(environment)
    assert said == ["True", "True"]
    secateur = str(environment / "bin" / "secateur")
    assert run([secateur, "--version"], tmp_path).startswith("secateur ")
    fit = ["fit", "lenet-relu", "digits", "--epochs", "1", "--samples", "2", "--out", "first"]
    run([secateur, *fit], tmp_path)
    assert "<html" in (tmp_path / "first" / "report.html").read_text(encoding="utf-8")
    assert (Path(where).parent / "py.typed").is_file()
