"""Report errors of commands: one line on stderr and an exit code; a traceback only with --debug."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from secateur.errors import SecateurError, UsageError

__all__ = ["DEBUG_VARIABLE", "FAILED", "WRONG_USAGE", "ExitCodes", "complain"]

DEBUG_VARIABLE = "SECATEUR_DEBUG"
FAILED = 1
WRONG_USAGE = 2


class ExitCodes(TyperGroup):
    """Convert Secateur's errors and Ctrl-C in any subcommand to one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except SecateurError as error:
            if ctx.params.get("debug"):
                raise
            complain(str(error))
            raise typer.Exit(WRONG_USAGE if isinstance(error, UsageError) else FAILED) from None
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(FAILED) from None


def complain(text: str) -> None:
    """Print an error on stderr, in one line."""
    print(f"Error: {' '.join(text.split())}", file=sys.stderr)
