"""How long the evidence of a whole layer takes under a Kronecker-factored posterior.

Compared, interleaved in one run, for a square layer of the given size in float32:

* eigendecompositions: `torch.linalg.eigh` of the same two factors, which any method needs that works in
  their eigenbasis;
* narrower prior: `matrix_normal_delta_f` from one Gaussian prior to another;
* half the rows out: `matrix_normal_delta_f` with every second row pinned, the rest narrowed;
* whole layer out: `matrix_normal_delta_f` to a point mass;
* each row alone: `kronecker_row_delta_f`, the joint evidence of every row.

    python benchmarks/reduction_kronecker.py --sizes 1024 4096 --threads 2
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from secateur.reduction import kronecker_row_delta_f, matrix_normal_delta_f


def factor(size: int, generator: torch.Generator) -> Tensor:
    """A well-conditioned precision with a spectrum like a damped curvature factor's."""
    root = torch.randn(size, size, generator=generator) / size**0.5
    return root @ root.mT + 0.1 * torch.eye(size)


def measure(size: int, repeats: int, generator: torch.Generator) -> dict[str, list[float]]:
    rows, columns = factor(size, generator) * 100, factor(size, generator)
    mean = 0.1 * torch.randn(size, size, generator=generator)
    every_second = torch.where(torch.arange(size) % 2 == 0, torch.inf, 20.0)

    def evidence(reduced: Tensor | float) -> Tensor:
        return matrix_normal_delta_f(mean, rows, columns, prior_precision=1.0, reduced_precision=reduced)

    work: dict[str, Callable[[], object]] = {
        "eigendecompositions": lambda: (torch.linalg.eigh(rows), torch.linalg.eigh(columns)),
        "narrower prior": lambda: evidence(20.0),
        "half the rows out": lambda: evidence(every_second),
        "whole layer out": lambda: evidence(torch.inf),
        "each row alone": lambda: kronecker_row_delta_f(mean, rows, columns, prior_precision=1.0),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, function in work.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)

    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.repeats} repeats, float32\n")
    print("| layer | what | median s | min to max s | times the eigendecompositions |")
    print("|---:|---|---:|---:|---:|")
    for size in arguments.sizes:
        times = measure(size, arguments.repeats, generator)
        reference = statistics.median(times["eigendecompositions"])
        for name, samples in times.items():
            median = statistics.median(samples)
            print(
                f"| {size} x {size} | {name} | {median:.2f} | {min(samples):.2f} to {max(samples):.2f} "
                f"| {median / reference:.2f} |"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    dense = 4 * max(arguments.sizes) ** 4 / 2**30
    print(
        f"\nPeak memory {peak:.1f} GiB; a dense precision of the largest layer would take {dense:,.0f} GiB."
    )


if __name__ == "__main__":
    main()
