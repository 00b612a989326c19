"""Time that imports add to torch's own: fresh processes in turn, so that a busy machine is busy for all.

    python benchmarks/import_time.py

Prints medians in seconds over torch's.
"""

import argparse
import statistics
import subprocess
import sys

IMPORTS = {
    "torch": "import torch",
    "secateur": "import torch, secateur",
    "secateur.reduction": "import torch, secateur.reduction",
    "main functions": "import torch, secateur; secateur.fit; secateur.prune_trained; secateur.save",
    "command line": "import torch, secateur.cli",
}
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, code in IMPORTS.items():
            done = subprocess.run(
                [sys.executable, "-c", TIMED.format(code)], check=True, capture_output=True, text=True
            )
            times[name].append(float(done.stdout))
    base = statistics.median(times["torch"])
    print(f"torch: {base:.2f} s")
    for name in [*IMPORTS][1:]:
        print(f"{name}: {statistics.median(times[name]) - base:+.2f} s")


if __name__ == "__main__":
    main()
