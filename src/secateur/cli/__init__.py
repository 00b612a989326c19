"""The command line: `secateur fit`, `evaluate`, `report`, `data`; one file for each."""

from secateur.cli.app import app, main

__all__ = ["app", "main"]
