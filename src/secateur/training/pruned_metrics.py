"""Metrics of a run that was pruned further."""

from typing import Any

from torch import Tensor

from secateur.training import Run

__all__ = ["pruned_metrics", "shift_epochs"]


def pruned_metrics(
    run: Run, end: Run, keep: dict[str, Tensor], evidence: dict[str, float], removal: dict[str, Any]
) -> dict[str, Any]:
    """Return `metrics.json` of the new run.

    Args:
        run: The run that was pruned.
        end: What became of it, judged; its history and reductions are those since.
        keep: Where each parameter stays, by name.
        evidence: Predicted delta_f of what went, by parameter, in nats.
        removal: The row of the removal among the reductions.
    """
    layers = [_row(row, keep, evidence) for row in run.metrics["layers"]]
    kept = sum(row["num_kept"] for row in layers)
    later = shift_epochs(end.metrics["reductions"], len(run.history))
    return (
        run.metrics
        | end.metrics
        | {
            "num_weights": run.metrics["num_weights"],
            "num_kept": kept,
            "num_prunable": run.metrics["num_prunable"],
            "sparsity": 1 - kept / run.metrics["num_weights"],
            "seconds": run.metrics["seconds"] + end.metrics["seconds"],
            "evaluated_on": "test",
            "layers": layers,
            "reductions": [*run.metrics["reductions"], removal, *later],
        }
    )


def shift_epochs(rows: list[dict[str, Any]], num_epochs: int) -> list[dict[str, Any]]:
    """Shift the epoch numbers of history rows.

    Args:
        rows: With an "epoch" each, from 1.
        num_epochs: How many came before.
    """
    return [row | {"epoch": row["epoch"] + num_epochs} for row in rows]


def _row(row: dict[str, Any], keep: dict[str, Tensor], evidence: dict[str, float]) -> dict[str, Any]:
    """Return a layer's row after the removal."""
    name = row["name"]
    kept = int(keep[name].sum()) if name in keep else row["num_kept"]
    return row | {
        "num_kept": kept,
        "sparsity": 1 - kept / row["num_weights"],
        "delta_f": row["delta_f"] + evidence.get(name, 0.0),
    }
