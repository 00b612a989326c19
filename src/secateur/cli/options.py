"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Augment", "Autocast", "DataDir", "Device", "FinishedRun"]

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
