"""Pin what fits compute, so that a change of structure can be shown to change no digit.

    python scripts/pin_results.py run before.json      # with the old sources on PYTHONPATH
    python scripts/pin_results.py run after.json       # with the new ones
    python scripts/pin_results.py compare before.json after.json

Runs: `lenet` and `mlp` on Fashion-MNIST, six epochs of the default method with its reductions, and every
method on digits. Recorded of each: the rows of `history.jsonl` but for seconds, in full, and a SHA-256 of
weights, posterior precisions and masks. One thread, so that sums are added in one order. The sign of a zero
does not count. `--four-steps` has every spike-and-slab iteration take four steps, as they all did before 0.2.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

import secateur
from secateur.pruning import ranking
from secateur.training import method_names

TIMES = ("seconds", "training_seconds")
RUNS = [
    ("lenet", "fashion-mnist", "calibrated", 6),
    ("mlp", "fashion-mnist", "calibrated", 6),
    *[("lenet", "digits", method, 20) for method in method_names()],
]


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """Return a SHA-256 of named tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        values = tensors[name].detach().cpu()
        values = values + 0.0 if values.is_floating_point() else values  # -0 becomes 0
        found.update(values.contiguous().numpy().tobytes())
    return found.hexdigest()


def pin(network: str, data: str, method: str, epochs: int) -> dict[str, Any]:
    """Fit, and return what must not change."""
    run = secateur.fit(network, data, method=method, epochs=epochs, seed=0, num_samples=20)
    posterior = run.posterior
    return {
        "history": [{key: value for key, value in row.items() if key not in TIMES} for row in run.history],
        "weights": digest(posterior.point()),
        "precision": digest(posterior.precision),
        "keep": digest({name: posterior.present(name) for name in posterior.mean}),
        "sparsity": run.metrics["sparsity"],
        "accuracy": run.metrics["accuracy"],
        "negative_log_likelihood": run.metrics["negative_log_likelihood"],
        "expected_calibration_error": run.metrics["expected_calibration_error"],
        "log_predictive_density": run.metrics["log_predictive_density"],
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a line for each figure that differs."""
    lines = [f"{name}: in one file only" for name in sorted(before.keys() ^ after.keys())]
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        for key in old:
            if key != "history" and old[key] != new[key]:
                lines.append(f"{name}: {key} was {old[key]}, is {new[key]}")
        for row, other in zip(old["history"], new["history"], strict=True):
            for key in row.keys() | other.keys():
                if repr(row.get(key)) != repr(other.get(key)):  # nan is nan
                    lines.append(
                        f"{name}: epoch {row['epoch']}: {key} was {row.get(key)}, is {other.get(key)}"
                    )
    return lines


def main() -> None:
    """Run or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="fit everything and write one file")
    run.add_argument("file", type=Path)
    run.add_argument("--only", default="", help="runs whose name contains this")
    run.add_argument("--four-steps", action="store_true", help="four steps of spike and slab in every method")
    compare = commands.add_parser("compare", help="name every figure that differs; exit 1 if any does")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "compare":
        before, after = (json.loads(path.read_text()) for path in (arguments.before, arguments.after))
        found = differences(before, after)
        print("\n".join(found) or f"{len(before)} runs: no figure differs")
        sys.exit(bool(found))
    torch.set_num_threads(1)
    if arguments.four_steps:
        name = "spike_and_slab_log_odds" if hasattr(ranking, "spike_and_slab_log_odds") else "spike_and_slab"
        decide = getattr(ranking, name)
        setattr(ranking, name, lambda *values, **options: decide(*values, **options | {"num_iterations": 4}))
    results = {}
    for each in RUNS:
        name = " ".join(map(str, each))
        if arguments.only in name:
            started = time.perf_counter()
            results[name] = pin(*each)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
            arguments.file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
