"""Peak memory of training and pruning, in multiples of the model's bytes.

    python benchmarks/memory.py                      # a multilayer perceptron of 20 million float32 weights
    PYTHONPATH=OTHER/src python benchmarks/memory.py # the same by other sources

Each row is a process of its own, in which the system's high-water mark of resident memory is reset and read
(Linux). Counted is everything: parameters, gradients, state, temporaries, and for pruning the model and the
posterior too; not the activations, which a batch of four examples makes negligible, nor what the process
holds before there is a model.

* Calibrated: draw, forward, backward, step, each a few times; compiled likewise.
* reduce, prune: with `sparsity` 0.8 and by the evidence alone, from a posterior at hand.
"""

import argparse
import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

WORK = ("calibrated", "calibrated, compiled", "reduce", "reduce, evidence", "prune", "prune, evidence")


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def reset_peak() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def mlp(width: int, depth: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def train(model: nn.Module, width: int, *, compile: bool) -> int:
    """Take a few steps; return the resident memory without the model's and the optimizer's tensors."""
    from secateur.inference import Calibrated

    x, y = torch.randn(4, width), torch.randint(10, (4,))
    optimizer = Calibrated(
        model.named_parameters(), num_data=60_000, generator=torch.Generator(), compile=compile
    )
    without = 0
    for step in range(5):
        if step == 2:  # libraries are loaded and steps compiled
            optimizer.zero_grad()
            reset_peak()
            state = sum(
                each.nbytes
                for block in optimizer.state_dict()["posterior"]["blocks"]
                for each in block.values()
            )
            reset_peak()
            without = resident("VmRSS") - state - sum(each.nbytes for each in model.parameters())
        with optimizer.sampled_parameters():
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    return without


def reduce_or_prune(model: nn.Module, work: str) -> None:
    from secateur import Posterior
    from secateur.pruning import prune, reduce

    generator = torch.Generator().manual_seed(1)
    mean = {name: each.detach() for name, each in model.named_parameters()}
    precision = {
        name: torch.empty_like(each).uniform_(1.0, 1e4, generator=generator) for name, each in mean.items()
    }
    prior = dict.fromkeys(mean, torch.tensor(1.0))
    posterior = Posterior(mean, precision, prior)
    sparsity = None if work.endswith("evidence") else 0.8
    reset_peak()
    if work.startswith("reduce"):
        reduce(posterior, sparsity=sparsity)
    else:
        prune(model, posterior, sparsity=sparsity)


def measure(work: str, width: int, depth: int) -> float:
    import secateur  # noqa: F401  (its own memory is none of the model's)

    torch.set_num_threads(1)
    if work.startswith("calibrated"):
        model = mlp(width, depth)
        before = train(model, width, compile=work.endswith("compiled"))
    else:
        reduce_or_prune(mlp(64, 1), work)  # first calls of everything, so that libraries are loaded
        reset_peak()
        before = resident("VmRSS")
        model = mlp(width, depth)
        reduce_or_prune(model, work)
    return (resident("VmHWM") - before) / sum(each.nbytes for each in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--width", type=int, default=2560)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--measure", choices=WORK, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(measure(given.measure, given.width, given.depth))
        return
    num_weights = sum(each.numel() for each in mlp(given.width, given.depth).parameters())
    print(f"{num_weights:,} weights, torch {torch.__version__}\n")
    print("| work | peak, times the model's bytes |")
    print("|---|---:|")
    for work in WORK:
        if given.only not in work:
            continue
        command = [sys.executable, __file__, "--measure", work]
        command += ["--width", str(given.width), "--depth", str(given.depth)]
        # freed memory goes back at once, so that the mark is of what is in use
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        print(f"| {work} | {float(done.stdout):.2f} |", flush=True)


if __name__ == "__main__":
    main()
