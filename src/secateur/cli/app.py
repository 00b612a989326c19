"""The `secateur` command: shared options and the table of subcommands."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from secateur.cli import compare, data, evaluate, finished, fit, prune_trained, report
from secateur.cli.failures import DEBUG_VARIABLE, FAILED, ExitCodes, complain, prepare_process
from secateur.errors import in_a_line
from secateur.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    cls=ExitCodes,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: secateur fit lenet fashion-mnist",
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"secateur {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _shared(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG_VARIABLE, help="Show where an error comes from.")
    ] = False,
) -> None:
    """Evidence-based pruning for neural networks.

    Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage.
    """


app.command(epilog=fit.EXAMPLE)(fit.fit)
app.command(epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command(epilog=finished.EXAMPLES["prune"])(finished.prune)
app.command(epilog=prune_trained.EXAMPLE)(prune_trained.prune_trained)
app.command(epilog=compare.EXAMPLE)(compare.compare)
app.command(epilog=finished.EXAMPLES["compact"])(finished.compact)
app.command(epilog=finished.EXAMPLES["export"])(finished.export)
app.command(epilog=finished.EXAMPLES["bench"])(finished.bench)
app.command(epilog=report.EXAMPLE)(report.report)
app.command(epilog=data.EXAMPLE)(data.data)


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    try:
        prepare_process()
        app()
    except KeyboardInterrupt:  # before or after the command itself
        complain("interrupted")
        sys.exit(FAILED)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) or "--debug" in sys.argv:
            raise
        complain(
            f"{in_a_line(error)} (not one of Secateur's own errors; set {DEBUG_VARIABLE}=1 to see where it "
            "comes from)"
        )
        sys.exit(FAILED)
    sys.exit(0)
