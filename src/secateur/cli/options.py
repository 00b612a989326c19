"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "Augment", "Autocast", "DataDir", "Device", "FinishedRun", "Quiet", "Sparsity"]


def _share(value: float | None) -> float | None:
    """Refuse what is no share; whoever types 90 means 0.9."""
    if value is None or 0 <= value <= 1:
        return value
    hint = f"; {value:g} % is {value / 100:g}" if 1 < value <= 100 else ""
    raise typer.BadParameter(f"expected a share between 0 and 1, got {value:g}{hint}")


FinishedRun = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished run.")]
DataDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder with data sets; else $SECATEUR_DATA.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")]
Augment = Annotated[
    bool, typer.Option("--augment", help="Crop and mirror training images at random; not for digits.")
]
Autocast = Annotated[
    bool, typer.Option("--autocast", help="Train in bfloat16; weights and results stay in float32.")
]
Sparsity = Annotated[
    float | None,
    typer.Option(
        callback=_share, help="Share of weights to remove, as 0.9; by default the evidence decides."
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object, and everything else on stderr.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress and no summary.")]
