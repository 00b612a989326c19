"""Writes the directory of a run that never happened, with the shapes and numbers of one that could have."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LENET = {
    "conv1": (6, 1, 5, 5),
    "conv2": (16, 6, 5, 5),
    "conv3": (120, 16, 5, 5),
    "dense": (84, 120),
    "output": (10, 84),
}
MLP = {
    "dense1": (500, 784),
    "dense2": (500, 500),
    "dense3": (500, 500),
    "dense4": (500, 500),
    "output": (10, 500),
}
SHARE_KEPT = {"conv1": 0.86, "conv2": 0.31, "conv3": 0.028, "dense": 0.055, "dense1": 0.02}


def write_run(
    directory: Path,
    *,
    network: str = "lenet",
    shapes: dict | None = None,
    num_epochs: int = 40,
    seed: int = 0,
) -> Path:
    """Write all files of a finished run but the report, and return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    tensors, layers = {}, []
    for layer, shape in (shapes or (LENET if network == "lenet" else MLP)).items():
        prunable = layer != "output"
        for name, size in ((f"{layer}.weight", shape), (f"{layer}.bias", shape[:1])):
            keep = random.random(size) < (SHARE_KEPT.get(layer, 0.06) if prunable else 1.0)
            tensors[name] = (random.normal(0, 0.25, size) * keep).astype(np.float32)
            removed = int(keep.size - keep.sum())
            layers.append({
                "name": name,
                "shape": list(size),
                "num_weights": keep.size,
                "num_kept": int(keep.sum()),
                "sparsity": removed / keep.size,
                "delta_f": 2.9 * removed,
                "prunable": prunable,
            })
    save_file(tensors, directory / "model.safetensors")
    save_file(tensors, directory / "posterior.safetensors")
    total, kept = sum(row["num_weights"] for row in layers), sum(row["num_kept"] for row in layers)

    history, reductions, left = [], [], total
    for epoch in range(1, num_epochs + 1):
        done = epoch / num_epochs
        row = {
            "epoch": epoch,
            "step": 500 * epoch,
            "seconds": 9.6 * epoch,
            "learning_rate": 2e-3 * (1 + np.cos(np.pi * done)) / 2,
            "train_loss": 0.21 + 0.9 * np.exp(-9 * done),
            "accuracy": 0.905 - 0.21 * np.exp(-14 * done) + random.normal(0, 0.0015),
            "negative_log_likelihood": 0.262 + 0.65 * np.exp(-14 * done) + random.normal(0, 0.004),
            "expected_calibration_error": 0.010 + 0.02 * np.exp(-8 * done) + abs(random.normal(0, 0.002)),
            "brier_score": 0.14 + 0.3 * np.exp(-14 * done),
            "sparsity": 1 - left / total,
            "num_kept": left,
        }
        first, last = num_epochs // 6, 3 * num_epochs // 4
        if first <= epoch <= last:
            goal = total * (kept / total) ** ((epoch - first + 1) / (last - first + 1))
            removed = round(left - goal)
            left -= removed
            reduction = {
                "num_removed": removed,
                "predicted_delta_f": 3.1 * removed,
                "observed_delta_f": 0.8 * removed * (1 - 2 * done) + random.normal(0, 300),
            }
            reductions.append({"epoch": epoch, **reduction})
            row |= {**reduction, "num_kept": left, "sparsity": 1 - left / total}
        history.append(row)
    with (directory / "history.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in history)

    confidence = np.sort(1 - 0.6 * random.beta(0.45, 1.6, 20))
    scores = {
        "accuracy": 0.9051,
        "negative_log_likelihood": 0.2649,
        "expected_calibration_error": 0.0098,
        "brier_score": 0.1391,
        "log_predictive_density": -0.2702,
    }
    metrics = scores | {
        "sparsity": 1 - kept / total,
        "num_weights": total,
        "num_kept": kept,
        "num_prunable": sum(row["num_weights"] for row in layers if row["prunable"]),
        "seconds": 384.2,
        "seconds_per_iteration": 0.0191,
        "num_samples": 100,
        "evaluated_on": "test",
        "temperature": 0.1,
        "mean_network": scores | {"accuracy": 0.9043, "expected_calibration_error": 0.0121},
        "layers": layers,
        "reliability": {
            "confidence": confidence.tolist(),
            "accuracy": np.clip(confidence + random.normal(0, 0.012, 20), 0, 1).tolist(),
            "count": [500] * 20,
        },
        "reductions": reductions,
    }
    (directory / "metrics.json").write_text(json.dumps(metrics))
    config = {
        "network": network,
        "data": "fashion-mnist",
        "method": "calibrated",
        "epochs": num_epochs,
        "seed": seed,
        "device": "cpu",
        "recipe": {
            "learning_rate": 2e-3,
            "batch_size": 120,
            "settle_epoch": None,
            "temperature": 0.1,
            "schedule": {
                "first_epoch": num_epochs // 6,
                "last_epoch": 3 * num_epochs // 4,
                "max_fraction": 0.15,
            },
        },
        "versions": {"secateur": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "command": f"secateur fit {network} fashion-mnist --epochs {num_epochs} --seed {seed}",
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def measurements(**changes) -> dict:
    """Return what `bench.json` of the run holds."""
    timings = [{"batch": b, "median": 2e-3 * b, "lower": 1e-3 * b, "upper": 3e-3 * b} for b in (1, 256)]
    dense = {
        "variant": "dense", "state_bytes": 246824, "file_bytes": 247000, "num_parameters": 61706,
        "num_nonzero": 61706, "num_macs": 416520, "latencies": timings, "peak_memory": 1400000,
        "largest_difference": 0.0, "accuracy": 0.9043,
    }  # fmt: skip
    quick = [row | {"median": row["median"] / 4} for row in timings]
    small = dense | {"variant": "compact", "file_bytes": 13722, "latencies": quick}
    graph = small | {"variant": "onnxruntime", "num_parameters": None, "num_macs": None, "peak_memory": None}
    kernel = {
        "layer": "conv3", "shape": [50, 400], "sparsity": 0.97, "dense_seconds": 4e-5, "sparse_seconds": None,
        "kernel": "dense",
    }  # fmt: skip
    machine = {"machine": "x86_64", "num_threads": 2, "torch": "2.13.0", "seconds": 5.0, "dense_run": None}
    return {
        "rows": [dense, small, graph], "kernels": [{"batch": 1, "layers": [kernel]}], "machine": machine,
        "entropy_bound": 12450.0, "remarks": [],
    } | changes  # fmt: skip
