"""Report errors of commands: one line on stderr and an exit code; a traceback only with --debug."""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from secateur.errors import SecateurError, UsageError
from secateur.grid.jobs import PARENT_VARIABLE
from secateur.runs.formatting import printable

__all__ = ["DEBUG_VARIABLE", "FAILED", "WRONG_USAGE", "ExitCodes", "complain", "prepare_process"]

DEBUG_VARIABLE = "SECATEUR_DEBUG"
FAILED = 1
WRONG_USAGE = 2
SECONDS_TO_END = 15  # of a run whose parent has gone


class ExitCodes(TyperGroup):
    """Convert Secateur's errors and Ctrl-C in any subcommand to one line and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse words that are not UTF-8 at the start: a page that names them fails after hours."""
        for word in args:
            try:
                word.encode()
            except UnicodeEncodeError:
                complain(f"expected words in UTF-8, got {word!a}; choose another name")
                raise typer.Exit(WRONG_USAGE) from None
        return super().parse_args(ctx, args)

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
    """Print an error on stderr, in one line, without control characters."""
    print(f"Error: {printable(' '.join(text.split()))}", file=sys.stderr)


def prepare_process() -> None:
    """Let this process end in order: on SIGTERM and SIGHUP as on Ctrl-C, and with the worker that began it.

    Output that its encoding cannot express gets a question mark instead of an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup
            signal.signal(number, _interrupt)
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if parent.isdigit():
        threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """End this process once its parent has gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    os._exit(FAILED)
