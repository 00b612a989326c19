"""Begin a run in its directory, or go on with the one that is there."""

from pathlib import Path
from typing import Any

from secateur.errors import ArtifactError
from secateur.runs import RunDirectory, as_json, load_nested, read_json, write_json
from secateur.training.loop import Trainer
from secateur.training.prediction import CATEGORICAL

__all__ = ["identity_of", "open_run", "restore"]

SAME_RUN = (
    "network",
    "data",
    "method",
    "likelihood",
    "seed",
    "sparsity",
    "image_shape",
    "num_classes",
    "num_data",
    "num_held_out",
    "num_weights",
    "augment",
    "autocast",
)


def open_run(directory: RunDirectory, config: dict[str, Any], trainer: Trainer) -> None:
    """Begin a run in its directory, or go on from the checkpoint that is there.

    Args:
        directory: Of the run, claimed.
        config: What becomes `config.json`.
        trainer: The fit.

    Raises:
        ArtifactError: If it is another run's, or damaged.
    """
    if not directory.config.exists():
        write_json(directory.config, config)
        return
    # A finished run keeps its config, with what only the end of it knows, until its new end.
    kept = read_json(directory.config)
    if "pruned" in kept:
        raise ArtifactError(
            f"--resume {directory.path}: expected a run of secateur fit, got one that secateur prune wrote; "
            "choose another --out"
        )
    now = identity_of(as_json(config))
    _require_same(identity_of(kept), now, directory.path)
    if directory.checkpoint.exists():
        restore(directory, now, trainer)
        directory.write_history(trainer.history)  # an epoch may have been written after its checkpoint


def restore(directory: RunDirectory, now: dict[str, Any], trainer: Trainer) -> None:
    """Go on from a checkpoint, if it is of this run.

    Args:
        directory: Of the run.
        now: Identity of this run.
        trainer: The fit.

    Raises:
        ArtifactError: If it is another run's, or damaged.
    """
    state = load_nested(directory.checkpoint)
    if not (isinstance(state.get("run"), dict) and isinstance(state.get("trainer"), dict)):
        raise ArtifactError(f"{directory.checkpoint}: expected a run and its state, got other fields")
    _require_same(state["run"], now, directory.checkpoint)
    trainer.restore(state["trainer"])


def _require_same(earlier: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    for key, value in now.items():
        if earlier.get(key) != value:
            raise ArtifactError(
                f"--resume {where}: expected the run's own {key} ({earlier.get(key)}), got {value}; "
                "give the options it was started with"
            )


def identity_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same in a resumed run.

    Args:
        config: Content of `config.json`.
    """
    recipe = config.get("recipe")
    config = {"likelihood": CATEGORICAL.describe(), **config}  # earlier versions knew no other
    source = config.get("source")
    same = {key: config.get(key) for key in SAME_RUN}
    same["sha256"] = source.get("sha256") if isinstance(source, dict) else None
    return same | (recipe if isinstance(recipe, dict) else {})
