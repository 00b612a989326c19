"""Log the history of a run as TensorBoard scalars; tensorboard is an optional dependency."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from secateur.errors import ArtifactError, SecateurError

__all__ = ["TensorBoard", "require_tensorboard"]


def require_tensorboard() -> None:
    """Check that the tensorboard package is installed.

    Raises:
        SecateurError: If it is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401 (whether it can be imported is the question)
    except ImportError:
        raise SecateurError(
            "expected the tensorboard package for TensorBoard logs, got none; "
            "install it with: pip install 'secateur[tensorboard]'"
        ) from None


class TensorBoard:
    """Write rows of a history as scalars over epochs; a context manager."""

    def __init__(self, directory: Path, *, resumed_epoch: int = 0) -> None:
        """Open the log.

        Args:
            directory: Where the event files go; made if need be.
            resumed_epoch: Epochs an interrupted fit completed. What it logged later is dropped.

        Raises:
            SecateurError: If the tensorboard package is not installed.
            ArtifactError: If the directory is a link, to wherever.
        """
        require_tensorboard()
        if directory.is_symlink():
            raise ArtifactError(f"{directory}: expected a directory for logs, got a link; remove it")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=resumed_epoch + 1 if resumed_epoch else None)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Log every number of one line of the history, at its epoch.

        Args:
            row: The line; what is not a number is left out.
        """
        for name, value in row.items():
            if name != "epoch" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Finish the log."""
        self._writer.close()

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
