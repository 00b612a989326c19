"""What a curvature pass and a whole pruning cost, in training epochs and in models.

For LeNet, the MLP and a small vision transformer on images of noise, in batches of 120:

* epoch: forward, backward and a step of AdamW over all data, plainly;
* kronecker, row, diagonal: `secateur.curvature.estimate` over the same data with sampled targets;
* kronecker, exact: the same with one backward pass per output;
* prune_trained: a removal of 80 % in eight rounds, each with a pass over these data, less a tenth held out.

Times are interleaved and given in units of the epoch. Memory is the highest resident size of a process of its
own that does so, less that of one that trains on the same batches, in units of the model's bytes.

    python benchmarks/curvature.py --data 1200 --repeats 3
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import secateur
from secateur.curvature import estimate
from secateur.networks import MLP, LeNet, VisionTransformer

BATCH = 120
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lenet": LeNet,
    "mlp": MLP,
    "vit": lambda: VisionTransformer((1, 28, 28), depth=3, width=64, num_heads=4),
}
SIZES = {"lenet": 32, "mlp": 28, "vit": 28}


def images(name: str, num_data: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    inputs = torch.randn(num_data, 1, SIZES[name], SIZES[name])
    return list(zip(inputs.split(BATCH), torch.randint(10, (num_data,)).split(BATCH), strict=True))


def epoch(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    for inputs, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


WORK: dict[str, Callable[[nn.Module, list[tuple[Tensor, Tensor]]], object]] = {
    "epoch": epoch,
    "kronecker": estimate,
    "row": lambda model, batches: estimate(model, batches, structure="row"),
    "diagonal": lambda model, batches: estimate(model, batches, structure="diagonal"),
    "kronecker, exact": lambda model, batches: estimate(model, batches, outputs="exact"),
    "prune_trained": lambda model, batches: secateur.prune_trained(
        model, batches, sparsity=0.8, rounds=8, progress=False
    ),
}


def num_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def peak(name: str, work: str) -> int:
    """Highest resident bytes of a process that does the work on four batches."""
    command = [sys.executable, __file__, "--peak", name, work]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=int, default=1200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "WORK"), help="measure one process's memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        name, work = arguments.peak
        WORK[work](NETWORKS[name](), images(name, 4 * BATCH))
        # Not getrusage: its maximum is inherited from the process that started this one.
        status = Path("/proc/self/status").read_text()
        print(1024 * int(status.split("VmHWM:")[1].split()[0]))
        return
    print(f"{'':18}" + "".join(f"{name:>12}" for name in NETWORKS))
    times: dict[str, dict[str, list[float]]] = {work: {name: [] for name in NETWORKS} for work in WORK}
    for name, make in NETWORKS.items():
        batches = images(name, arguments.data)
        for work in WORK.values():
            work(make(), batches[:1])
        for _ in range(arguments.repeats):
            for key, work in WORK.items():
                model = make()
                start = time.perf_counter()
                work(model, batches)
                times[key][name].append(time.perf_counter() - start)
    medians = {
        work: {name: statistics.median(each) for name, each in own.items()} for work, own in times.items()
    }
    print(f"{'epoch, seconds':18}" + "".join(f"{medians['epoch'][name]:12.3f}" for name in NETWORKS))
    for work in WORK:
        ratios = (medians[work][name] / medians["epoch"][name] for name in NETWORKS)
        print(f"{work:18}" + "".join(f"{ratio:12.2f}" for ratio in ratios))
    print("\nPeak memory beyond that of training, in models")
    base = {name: peak(name, "epoch") for name in NETWORKS}
    for work in list(WORK)[1:]:
        extra = ((peak(name, work) - base[name]) / num_bytes(NETWORKS[name]()) for name in NETWORKS)
        print(f"{work:18}" + "".join(f"{each:12.1f}" for each in extra))


if __name__ == "__main__":
    main()
