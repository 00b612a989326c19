"""`secateur report`: write the report of a run, or the page of a comparison, again."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["EXAMPLE", "report"]

EXAMPLE = "Example: secateur report runs/lenet-fashion-mnist-calibrated-seed0"


def report(
    run: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Directory of a finished run, a comparison, or a pruned network."),
    ],
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with data sets (for comparisons); else $SECATEUR_DATA."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where a comparison measures detection: cpu, cuda, cuda:1, mps, or auto.")
    ] = "auto",
) -> None:
    """Write the page again from the files in DIR, and print its path.

    For a run that is report.html. For a comparison it is comparison.html, with comparison.csv, comparison.md
    and the figures; detection of out-of-distribution images is measured once per run.
    """
    # matplotlib: only where it is needed
    from secateur.reports import comparison, run_page, trained_page

    if comparison.is_comparison(run):
        say = lambda line: typer.echo(line, err=True)  # noqa: E731
        page = comparison.write(run, data_dir=data_dir, device=device, say=say)
    elif trained_page.is_pruned_network(run):
        page = trained_page.write(run)
    else:
        page = run_page.write(run)
    typer.echo(page)
