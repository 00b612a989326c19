"""The command line: one module for each subcommand of `secateur`."""

from secateur.cli.app import app, main

__all__ = ["app", "main"]
