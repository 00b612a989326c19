"""Fit a perceptron of 50 hidden units to tables, by several methods, over random splits.

    python benchmarks/regression.py --data DIR --tables boston concrete --splits 20 --out regression.jsonl
    python benchmarks/regression.py --show regression.jsonl

Each split keeps another tenth of the rows to judge by. Options of the methods are those of their recipes;
nothing is chosen here. "calibrated, dense" is the default recipe without removals, "calibrated, 80 %" the one
to that share.
Needs `mlxtend`, and `rdata` with a folder of Debian's `r-cran-modeldata` (`Rdata.rdb`, `Rdata.rdx`).
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from packaged_tables import TABLES, table

import secateur

TEST_FRACTION = 0.1
METHODS: dict[str, dict[str, Any]] = {
    "calibrated": {"method": "calibrated"},
    "calibrated, 80 %": {"method": "calibrated", "sparsity": 0.8},
    "calibrated, dense": {"method": "calibrated", "reduce": False},
    "joint": {"method": "joint"},
    "joint, 80 %": {"method": "joint", "sparsity": 0.8},
    "flat-ff": {"method": "flat-ff"},
    "flat-map": {"method": "flat-map"},
}
SCORES = {
    "negative_log_likelihood": "NLL",
    "root_mean_squared_error": "RMSE",
    "coverage_90": "inside 90 %",
    "accuracy": "accuracy",
    "sparsity": "removed",
    "seconds": "seconds",
}


def one(name: str, folder: Path, method: str, split: int) -> dict[str, Any]:
    """Return the scores of one fit."""
    inputs, targets = table(name, folder)
    data = secateur.data.from_arrays(
        inputs, targets, test_fraction=TEST_FRACTION, split_seed=split, name=name
    )
    start = time.perf_counter()
    run = secateur.fit("mlp-50", data, seed=split, **METHODS[method])
    seconds = time.perf_counter() - start
    return {
        "table": name,
        "method": method,
        "split": split,
        "seconds": round(seconds, 1),
        **{key: value for key, value in run.metrics.items() if isinstance(value, int | float)},
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print mean and standard error of each table, method and score."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["table"], row["method"]].append(row)
    for (name, method), own in found.items():
        cells = []
        for score, title in SCORES.items():
            values = [row[score] for row in own if row.get(score) is not None]
            if values:
                error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
                cells.append(f"{title} {statistics.mean(values):.4f} +- {error:.4f}")
        print(f"| {name} | {method} | {len(own)} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(), help="folder of r-cran-modeldata's tables")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--out", type=Path, help="file to append each result to, a line of JSON each")
    parser.add_argument("--show", type=Path, help="only print the table of such a file")
    arguments = parser.parse_args()
    if arguments.show is not None:
        show([json.loads(line) for line in arguments.show.read_text().splitlines()])
        return
    rows = []
    for name in arguments.tables:
        for split in range(arguments.splits):
            for method in arguments.methods:
                rows.append(one(name, arguments.data, method, split))
                line = json.dumps(rows[-1])
                print(line, flush=True)
                if arguments.out is not None:
                    with arguments.out.open("a") as file:
                        file.write(line + "\n")
    show(rows)


if __name__ == "__main__":
    main()
