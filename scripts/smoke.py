"""Check an installation: prune a network, save and load it, fit another by the command line.

    python scripts/smoke.py                        # in any environment that has secateur
    make smoke PYTHON=python3.12                   # in a fresh one, of another Python

Writes into a temporary folder alone.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import secateur


def prune_save_and_load(folder: Path) -> None:
    """Prune a small network in Python, write it, and read it back."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    inputs = torch.randn(60, 8)
    batches = [(part, part[:, :3].argmax(1)) for part in inputs.split(40)]
    assert secateur.prune_trained(model, batches, sparsity=0.3, progress=False).num_removed > 0
    secateur.save(model, folder / "saved")
    assert torch.allclose(secateur.load(folder / "saved")(inputs), model(inputs), atol=1e-5)


def fit_and_report(folder: Path) -> None:
    """Fit a network by the installed command, and look for its report."""
    command = str(Path(sys.executable).parent / "secateur")
    run = ["fit", "lenet-relu", "digits", "--epochs", "1", "--samples", "2", "--quiet", "--out", "first"]
    for arguments in (["--version"], run):
        subprocess.run([command, *arguments], cwd=folder, check=True)
    assert "<html" in (folder / "first" / "report.html").read_text(encoding="utf-8")


def main() -> None:
    """Check everything; an assertion or a command that fails ends with a status that is not 0."""
    package = Path(secateur.__file__).parent
    assert (package / "py.typed").is_file()
    os.environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder:
        prune_save_and_load(Path(folder))
        fit_and_report(Path(folder))
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {python}, torch {torch.__version__}, {package}: works")


if __name__ == "__main__":
    main()
