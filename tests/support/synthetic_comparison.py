"""Adds runs that never happened to the directory of a comparison, with what is measured once kept beside."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from secateur.reports.out_of_distribution import FILE, Detection
from support import synthetic_run

DETECTION = Detection(
    home="fashion-mnist",
    foreign="digits",
    auroc=0.8,
    num_inside=2000,
    num_outside=1797,
    num_samples=32,
    temperature=1.0,
    edges=tuple(np.linspace(0, np.log(10), 9).tolist()),
    inside=(1200, 300, 200, 100, 80, 60, 40, 20),
    outside=(100, 150, 200, 247, 300, 350, 300, 150),
)


def make_run(
    out: Path,
    *,
    network: str = "lenet",
    data: str = "fashion-mnist",
    method: str = "calibrated",
    seed: int = 0,
    shapes: dict | None = None,
    num_epochs: int = 6,
    sparsity: float | None = None,
) -> Path:
    """Write a finished run below `out/runs`; its numbers depend on its seed and method."""
    number = len(list((out / "runs").iterdir())) if (out / "runs").is_dir() else 0
    directory = out / "runs" / f"run{number}-{network}-{data}-seed{seed}"
    synthetic_run.write_run(
        directory, network=network, shapes=shapes, num_epochs=num_epochs, seed=100 * len(method) + seed
    )
    config = json.loads((directory / "config.json").read_text())
    config |= {
        "method": method,
        "data": data,
        "seed": seed,
        "sparsity": sparsity,
        "predictive_temperature": 1.2,
    }
    (directory / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng([seed, len(method)])
    metrics = json.loads((directory / "metrics.json").read_text())
    for scores in (metrics, metrics["mean_network"]):
        scores["accuracy"] += random.normal(0, 0.004)
        scores["negative_log_likelihood"] += random.normal(0, 0.02)
    metrics["seconds_per_iteration"] *= random.uniform(0.8, 1.6)
    (directory / "metrics.json").write_text(json.dumps(metrics))
    (directory / FILE).write_text(json.dumps({"format": 1, **asdict(DETECTION)}))
    return directory
