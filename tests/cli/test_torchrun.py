"""`torchrun -m secateur fit`: one run of several processes, with the files of one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.ranks import torchrun

ARGUMENTS = ["fit", "lenet", "digits", "--epochs", "1", "--samples", "2", "--no-compile"]


def test_two_processes_write_the_run_of_one(tmp_path: Path) -> None:
    for name, num_ranks in (("one", 1), ("two", 2)):
        done = torchrun(
            num_ranks, "-m", "secateur", *ARGUMENTS, "--method", "joint", "--out", str(tmp_path / name)
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy") <= 2  # of one process, not of each
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=0.01)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(second, first, rtol=1e-2, atol=1e-3)  # float32, over hundreds of steps


@pytest.mark.slow
def test_a_run_goes_on_in_two_processes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = torchrun(1, "-m", "secateur", *ARGUMENTS, "--out", str(out))
    assert first.returncode == 0, first.stderr
    again = torchrun(2, "-m", "secateur", *ARGUMENTS, "--out", str(out), "--resume")
    assert again.returncode == 0, again.stderr
    refused = torchrun(2, "-m", "secateur", *ARGUMENTS, "--out", str(out))
    assert refused.returncode != 0
    assert f"Error: --out {out}: expected a new or empty directory" in refused.stderr
    assert f"Error: rank 0: --out {out}: expected a new or empty directory" in refused.stderr
