"""Programs that run in real processes, joined by gloo."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

__all__ = ["Finished", "run_ranks", "tensors_left_by", "tensors_of", "torchrun"]

PRELUDE = """
import sys, warnings
from datetime import timedelta
from pathlib import Path
warnings.simplefilter("error")
import torch
import torch.distributed as dist
from safetensors.torch import save_file

rank, world, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out}/store-of-{world}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=120),
    )

def finish(tensors):
    save_file({name: each.detach().contiguous().clone() for name, each in tensors.items()},
              out / f"{rank}-of-{world}.safetensors")
"""


@dataclass(frozen=True)
class Finished:
    """How a process ended.

    Attributes:
        code: Its exit code.
        output: What it printed.
        errors: What it printed on stderr.
    """

    code: int
    output: str
    errors: str


def run_ranks(program: str, num_ranks: int, directory: Path) -> list[Finished]:
    """Run a program in so many processes and wait for all; it knows `rank`, `world`, `out` and `finish`.

    Args:
        program: Python source.
        num_ranks: Processes; one alone has no process group.
        directory: For their files; another one for each run of so many.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PRELUDE + program, str(rank), str(num_ranks), str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(num_ranks)
    ]
    finished = []
    for process in processes:
        output, errors = process.communicate(timeout=300)
        finished.append(Finished(process.returncode, output, errors))
    return finished


def tensors_of(program: str, num_ranks: int, directory: Path) -> list[dict[str, Tensor]]:
    """Return what each rank of a program gave to `finish`; all must end well.

    Args:
        program: As for `run_ranks`.
        num_ranks: As for `run_ranks`.
        directory: As for `run_ranks`.
    """
    finished = run_ranks(program, num_ranks, directory)
    assert not any(process.code for process in finished), "".join(each.errors for each in finished)
    return [load_file(directory / f"{rank}-of-{num_ranks}.safetensors") for rank in range(num_ranks)]


def torchrun(num_ranks: int, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Start a program as users do, in so many processes of one machine, and wait for them.

    Args:
        num_ranks: Processes; one alone is started without `torchrun`.
        arguments: What follows `python`.
        cwd: Where to start it.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    return subprocess.run(
        [sys.executable, *(launcher if num_ranks > 1 else []), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def tensors_left_by(program: str, num_ranks: int, folder: Path, *arguments: str) -> list[dict[str, Tensor]]:
    """Return what each rank of a program under `torchrun` wrote to `RANK-of-WORLD.safetensors`.

    Args:
        program: Python source, started in the folder.
        num_ranks: As for `torchrun`.
        folder: For the program and its files.
        arguments: Of the program.
    """
    (folder / "program.py").write_text(program, encoding="utf-8")
    done = torchrun(num_ranks, "program.py", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [load_file(folder / f"{rank}-of-{num_ranks}.safetensors") for rank in range(num_ranks)]
