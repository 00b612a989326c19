"""Seconds per training iteration of each method, against plain AdamW and flat-map on the same network.

    python benchmarks/training_step.py --network lenet
    python benchmarks/training_step.py --network mlp
    python benchmarks/training_step.py --network vit-small
    python benchmarks/training_step.py --network mlp-mixer-small
    python benchmarks/training_step.py --network lenet --against OTHER/src

All methods run in one process, in turn, round by round, so that a drift of the machine's speed meets all of
them alike; the ratio is taken within each round. A step is: draw weights, forward, loss, backward, update.
Of a comparison's methods `flat-map` has dropout, and `magnitude` is the same without; `signal-to-noise` and
`obd` take the steps of `calibrated`, `bmr-spike-and-slab` and `bmr-horseshoe` those of `flat-ff`.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from secateur import networks
from secateur.inference import IVON, Calibrated, FlatFF, FlatMAP, HorseshoeFF, PosteriorOptimizer

BATCH_SIZE = 120
NUM_DATA = 60_000
BASES = PLAIN, POINT = "AdamW", "flat-map, compiled"


def plain_step(network: str, device: torch.device, **options: bool) -> Callable[[], None]:
    model, x, y = problem(network, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **options)

    def step() -> None:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def posterior_step(
    build: Callable[..., PosteriorOptimizer],
    network: str,
    device: torch.device,
    *,
    compile: bool,
    dropout: float = 0.0,
) -> Callable[[], None]:
    model, x, y = problem(network, device, dropout)
    optimizer = build(
        model.named_parameters(), num_data=NUM_DATA, generator=torch.Generator(device), compile=compile
    )

    def step() -> None:
        with optimizer.sampled_parameters():
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()

    return step


def problem(
    network: str, device: torch.device, dropout: float = 0.0
) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    size = networks.image_size(network) or 28
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH_SIZE, 1, size, size, generator=generator).to(device)
    y = torch.randint(10, (BATCH_SIZE,), generator=generator).to(device)
    model = networks.build(network, image_shape=(1, size, size), num_classes=10, seed=0, dropout=dropout).to(
        device
    )
    if device.type == "cpu":  # as the built-in loop does
        model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    return model, x, y


def ivon(*args: object, **options: object) -> PosteriorOptimizer:
    return IVON(*args, noise="rademacher", **options)


def seconds(step: Callable[[], None], count: int, device: torch.device) -> float:
    started = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / count


def all_methods(network: str, device: torch.device) -> dict[str, Callable[[], Callable[[], None]]]:
    """Return what builds each method's step, by name."""
    compiled = partial(posterior_step, network=network, device=device, compile=True)
    return {
        PLAIN: partial(plain_step, network, device),
        "AdamW, fused": partial(plain_step, network, device, fused=True),
        POINT: partial(compiled, FlatMAP, dropout=0.2),
        "flat-map without dropout, compiled": partial(compiled, FlatMAP),
        "calibrated": partial(posterior_step, Calibrated, network, device, compile=False),
        "calibrated, compiled": partial(compiled, Calibrated),
        "ivon": partial(posterior_step, ivon, network, device, compile=False),
        "ivon, compiled": partial(compiled, ivon),
        "flat-ff, compiled": partial(compiled, FlatFF),
        "tiered-ff, compiled": partial(compiled, HorseshoeFF),
        "horseshoe-ff, compiled": partial(compiled, partial(HorseshoeFF, scales="full")),
    }


def work(methods: dict[str, Callable[[], Callable[[], None]]], device: torch.device, count: int) -> None:
    """Serve another process: for each name on the standard input, take steps and print their seconds."""
    steps: dict[str, Callable[[], None]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in steps:
            steps[name] = methods[name]()
            seconds(steps[name], 10, device)  # compiles, allocates
        print(seconds(steps[name], count, device), flush=True)


def compare(names: list[str], against: str, rounds: int, arguments: list[str]) -> None:
    """Take the steps of two source trees in turn, each in a process of its own, and print their ratios."""
    workers = {}
    for tree in ("", against):
        environment = {**os.environ, "PYTHONPATH": tree} if tree else None
        workers[tree] = subprocess.Popen(
            [sys.executable, __file__, "--work", *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def timed(tree: str, name: str) -> float:
        reads, writes = workers[tree].stdout, workers[tree].stdin
        assert reads is not None
        assert writes is not None
        writes.write(f"{name}\n")
        writes.flush()
        return float(reads.readline())

    print(f"| method | ms per step | ms per step of {against} | ratio, median (quartiles) |")
    print("|---|---:|---:|---|")
    for name in names:
        for tree in workers:
            timed(tree, name)
        pairs = []
        for each in range(rounds):
            order = list(workers) if each % 2 else list(workers)[::-1]
            times = {tree: timed(tree, name) for tree in order}
            pairs.append((times[""], times[against]))
        ours, theirs = ([1e3 * value for value in column] for column in zip(*pairs, strict=True))
        low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
        print(
            f"| {name} | {statistics.median(ours):.2f} | {statistics.median(theirs):.2f} "
            f"| {middle:.3f} ({low:.3f} to {high:.3f}) |",
            flush=True,
        )
    for worker in workers.values():
        worker.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", default="lenet")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="steps of each method in a round")
    parser.add_argument("--against", help="another source tree, whose steps are taken in turn with these")
    parser.add_argument("--only", default="", help="methods whose name contains this")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    builders = all_methods(arguments.network, device)
    if arguments.work:
        work(builders, device, arguments.steps)
        return
    if arguments.against:
        names = [name for name in builders if arguments.only in name]
        passed = ["--network", arguments.network, "--device", arguments.device]
        compare(names, arguments.against, arguments.rounds, [*passed, "--steps", str(arguments.steps)])
        return
    methods = {name: build() for name, build in builders.items() if arguments.only in name or name in BASES}
    for step in methods.values():
        seconds(step, 10, device)  # compiles, allocates
    rounds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(arguments.rounds):
        for name, step in methods.items():
            rounds[name].append(seconds(step, arguments.steps, device))
    print(f"{arguments.network}, batch {BATCH_SIZE}, {device}, {torch.get_num_threads()} threads, ", end="")
    print(f"torch {torch.__version__}, {platform.machine()}, ", end="")
    print(f"{arguments.rounds} rounds of {arguments.steps} steps\n")
    print("| method | ms per step, median (min to max) | to AdamW, median (min to max) | to flat-map |")
    print("|---|---|---|---|")
    for name, each in rounds.items():
        ratios = [a / b for a, b in zip(each, rounds[PLAIN], strict=True)]
        to_point = [a / b for a, b in zip(each, rounds[POINT], strict=True)]
        ms = [1e3 * value for value in each]
        print(
            f"| {name} | {statistics.median(ms):.2f} ({min(ms):.2f} to {max(ms):.2f}) | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
            f"{statistics.median(to_point):.2f} |"
        )


if __name__ == "__main__":
    main()
