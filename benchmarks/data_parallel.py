"""Milliseconds and bytes of a data-parallel training step, beside plain `DistributedDataParallel` with AdamW.

    python benchmarks/data_parallel.py --out one.json
    torchrun --nproc-per-node=2 benchmarks/data_parallel.py --against one.json

Each process takes batches of the same size, so that two do twice the work of one. All methods run in one
process group, in turn, round by round; a figure is the median over rounds. Bytes are those that this process
gives to collectives: the gradients that `DistributedDataParallel` sums, and what our own calls send.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from secateur import distributed, networks
from secateur.curvature import RunningCurvature
from secateur.inference import Calibrated

NUM_DATA = 60_000
PLAIN = "AdamW"


class Sent:
    """Counts the bytes given to collectives."""

    def __init__(self) -> None:
        self.count = 0
        for name, argument in (("all_reduce", 0), ("broadcast", 0), ("all_gather", 1)):
            setattr(dist, name, self._counted(getattr(dist, name), argument))

    def _counted(self, function: Callable[..., Any], argument: int) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += args[argument].numel() * args[argument].element_size()
            return function(*args, **kwargs)

        return counted

    def gradients(self, _: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Average a bucket of gradients, as `DistributedDataParallel` does by itself, and count it."""
        buffer = bucket.buffer().div_(dist.get_world_size())
        self.count += buffer.numel() * buffer.element_size()
        work = dist.distributed_c10d._get_default_group().allreduce([buffer])
        return work.get_future().then(lambda done: done.value()[0])


def step_of(method: str, network: str, batch_size: int, sent: Sent) -> Callable[[], None]:
    side = networks.image_size(network) or 28
    shape = (1, side, side)
    model = networks.build(network, image_shape=shape, num_classes=10, seed=0)
    generator = torch.Generator().manual_seed(distributed.rank())
    x = torch.randn(batch_size, *shape, generator=generator)
    y = torch.randint(10, (batch_size,), generator=generator)
    wrapped: Any = model
    if distributed.num_ranks() > 1:
        wrapped = DistributedDataParallel(model)
        wrapped.register_comm_hook(None, sent.gradients)
    if method == PLAIN:
        plain = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def step() -> None:
            loss = F.cross_entropy(wrapped(x), y)
            plain.zero_grad()
            loss.backward()
            plain.step()

        return step
    every = method.partition("every ")[2]
    curvature = RunningCurvature(model, every=int(every)) if every else None
    optimizer = Calibrated(
        model.named_parameters(),
        num_data=NUM_DATA,
        curvature=curvature,
        generator=torch.Generator().manual_seed(0),
    )

    def posterior_step() -> None:
        with optimizer.sampled_parameters():
            loss = F.cross_entropy(wrapped(x), y)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        if curvature is not None:
            curvature.step((x, y))

    return posterior_step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="lenet")
    parser.add_argument("--batch-size", type=int, default=120, help="of each process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of a round; hundreds count every look")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path, help="what one process wrote to --out")
    arguments = parser.parse_args()
    methods = (PLAIN, "Calibrated", "Calibrated, a look every 10", "Calibrated, a look every 100")
    with distributed.launched():
        sent = Sent()
        steps = {name: step_of(name, arguments.network, arguments.batch_size, sent) for name in methods}
        for step in steps.values():
            step()  # builds what is built once; the count of looks starts behind it
            for _ in range(9):
                step()
        times: dict[str, list[float]] = {name: [] for name in methods}
        sizes: dict[str, float] = {}
        for _ in range(arguments.rounds):
            for name, step in steps.items():
                sent.count, started = 0, time.perf_counter()
                for _ in range(arguments.steps):
                    step()
                times[name].append(1000 * (time.perf_counter() - started) / arguments.steps)
                sizes[name] = sent.count / arguments.steps
        medians = {name: statistics.median(found) for name, found in times.items()}
        if distributed.rank():
            return
        before = json.loads(arguments.against.read_text()) if arguments.against else medians
        if arguments.out:
            arguments.out.write_text(json.dumps(medians))
        print(f"{arguments.network}, {distributed.num_ranks()} processes, {arguments.batch_size} data each")
        print("| method | ms per step, median (min to max) | to one process | bytes per step | to AdamW |")
        print("|---|---|---|---|---|")
        for name, found in times.items():
            share = f"{sizes[name] / sizes[PLAIN]:.3f}" if sizes[PLAIN] else "-"
            print(
                f"| {name} | {medians[name]:.2f} ({min(found):.2f} to {max(found):.2f}) "
                f"| {medians[name] / before[name]:.2f} | {sizes[name]:,.0f} | {share} |"
            )


if __name__ == "__main__":
    main()
