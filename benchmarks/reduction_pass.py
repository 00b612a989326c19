"""How long judging every weight takes, beside merely copying the weights.

Compared, interleaved in one run, on float32 vectors:

* copy: `mean.clone()` and `precision.clone()`, the plain memory copy of all that the evidence reads, into
  memory of its own as the evidence has to write to memory of its own;
* copy, memory reused: the same two copies into buffers that exist already (no page is touched first);
* evidence: `delta_f(mean, precision, prior_precision=...)` for a point mass at zero;
* decision: `spike_and_slab(...)` of that, until it has settled, with probabilities and decisions;
* reduction: evidence, threshold and which weights go, all that `secateur.pruning.reduce` asks for.

    python benchmarks/reduction_pass.py --sizes 10_000_000 100_000_000 --threads 2
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from secateur.reduction import delta_f, spike_and_slab

try:
    from secateur.reduction import spike_and_slab_log_odds
except ImportError:  # version 0.1, whose reduction asked for the probabilities too

    def spike_and_slab_log_odds(evidence: torch.Tensor) -> torch.Tensor:
        return spike_and_slab(evidence).log_odds


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def measure(size: int, repeats: int, generator: torch.Generator) -> dict[str, list[float]]:
    precision = torch.empty(size).uniform_(1.0, 1e4, generator=generator)
    mean = torch.empty(size).normal_(generator=generator).mul_(0.1)
    buffers = torch.empty_like(mean), torch.empty_like(precision)
    evidence = delta_f(mean, precision, prior_precision=100.0)

    def reuse() -> None:
        buffers[0].copy_(mean)
        buffers[1].copy_(precision)

    def both() -> object:
        return spike_and_slab(delta_f(mean, precision, prior_precision=100.0))

    def reduction() -> object:
        found = delta_f(mean, precision, prior_precision=100.0)
        return found > spike_and_slab_log_odds(found)

    work: dict[str, Callable[[], object]] = {
        "copy": lambda: (mean.clone(), precision.clone()),
        "copy, memory reused": reuse,
        "evidence": lambda: delta_f(mean, precision, prior_precision=100.0),
        "decision": lambda: spike_and_slab(evidence),
        "evidence and decision": both,
        "reduction": reduction,
    }
    for function in work.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, function in work.items():
            times[name].append(seconds(function))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)

    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.repeats} repeats, float32\n")
    print("| weights | what | median ms | min to max ms | times the copy |")
    print("|---:|---|---:|---:|---:|")
    for size in arguments.sizes:
        times = measure(size, arguments.repeats, generator)
        copy = statistics.median(times["copy"])
        for name, samples in times.items():
            median = statistics.median(samples)
            print(
                f"| {size:,} | {name} | {1e3 * median:.1f} "
                f"| {1e3 * min(samples):.1f} to {1e3 * max(samples):.1f} | {median / copy:.2f} |"
            )


if __name__ == "__main__":
    main()
