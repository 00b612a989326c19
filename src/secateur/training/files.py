"""The directory of a run: claimed once, every file whole or absent."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from secateur.errors import ArtifactError

__all__ = ["RunDirectory", "read_json", "write_whole"]


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step: readers see the old content or the new, never a part.

    Args:
        path: File to write.
        content: All of it.

    Raises:
        ArtifactError: If it cannot be written; the old file is then untouched.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtifactError(
            f"{path}: expected to write it, got: {error}; free space or choose another --out"
        ) from error


def as_json(value: Any) -> Any:
    """Return a value as it comes back from a JSON file: lists for tuples, None for what is not finite.

    >>> as_json({"temperatures": (0.1, 1.0), "cap": float("inf")})
    {'temperatures': [0.1, 1.0], 'cap': None}
    """
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: File to read.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: expected a readable JSON file, got: {error}") from error


@dataclass(frozen=True)
class RunDirectory:
    """Paths and files of one run.

    Attributes:
        path: The directory.
    """

    path: Path

    @property
    def config(self) -> Path:
        """What was asked for, and with which versions."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """The figures of a finished run."""
        return self.path / "metrics.json"

    @property
    def history(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "history.jsonl"

    @property
    def model(self) -> Path:
        """Posterior-mean weights and buffers; removed entries are zero."""
        return self.path / "model.safetensors"

    @property
    def posterior(self) -> Path:
        """Posterior of the weights, at the evidence's temperature."""
        return self.path / "posterior.safetensors"

    @property
    def checkpoint(self) -> Path:
        """All that the next epoch depends on."""
        return self.path / "checkpoint.safetensors"

    def claim(self, *, resume: bool) -> bool:
        """Make the directory usable for a fit.

        Args:
            resume: Whether to go on with the run that is there, if one is.

        Returns:
            Whether there is a checkpoint to go on from.

        Raises:
            ArtifactError: If the directory is in use and `resume` is not set, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            used = any(self.path.iterdir())
            if used and not resume:
                raise ArtifactError(
                    f"--out {self.path}: expected a new or empty directory, got one with files; "
                    "choose another, or go on with that run by --resume"
                )
            if not os.access(self.path, os.W_OK):
                raise PermissionError(13, "not writable")
        except OSError as error:
            raise ArtifactError(f"--out {self.path}: expected a writable directory, got: {error}") from error
        return self.checkpoint.exists()

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write one of the JSON files, whole."""
        write_whole(path, (json.dumps(as_json(value), indent=2, allow_nan=False) + "\n").encode())

    def write_history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the history, whole."""
        lines = [json.dumps(as_json(row), allow_nan=False) + "\n" for row in rows]
        write_whole(self.history, "".join(lines).encode())
