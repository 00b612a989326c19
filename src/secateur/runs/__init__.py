"""The files of a run: written whole or not at all, checked when they are read, locked while one writes."""

from secateur.runs.checkpoint import load_nested, save_nested
from secateur.runs.checksum import tensors_checksum
from secateur.runs.directory import RunDirectory, as_json, read_json
from secateur.runs.writing import write_whole

__all__ = [
    "RunDirectory",
    "as_json",
    "load_nested",
    "read_json",
    "save_nested",
    "tensors_checksum",
    "write_whole",
]
