"""`secateur data`: list data sets and where each is found."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from secateur.data import load, locate, names
from secateur.errors import DataError

__all__ = ["EXAMPLE", "data"]

EXAMPLE = "Example: secateur data fashion-mnist --fetch"


def data(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One data set; all by default.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder to look into first; else $SECATEUR_DATA.", metavar="DIR")
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is missing, and check it.")] = False,
) -> None:
    """List the data sets, and where each was found or would be fetched from."""
    wanted = names() if name is None else (name,)
    if fetch:
        for one in wanted:
            load(one, data_dir=data_dir, progress=True)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for column in ("data set", "here", "where"):
        table.add_column(column, overflow="fold", no_wrap=column != "where")
    for one in wanted:
        try:
            source = locate(one, data_dir)
        except DataError as error:
            if name is not None:
                raise
            table.add_row(one, "damaged", str(error))
        else:
            table.add_row(one, "yes" if source.is_local else "no", str(source))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 240  # a path in a pipe stays in one piece
    console.print(table)
