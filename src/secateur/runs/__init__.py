"""The files of a run: written whole or not at all, checked when they are read, locked while one writes.

`secateur.runs.reading` returns them as values; only that needs pydantic.
"""

from secateur.runs.checkpoint import load_nested, save_nested, tensors_checksum
from secateur.runs.directory import RunDirectory
from secateur.runs.files import as_json, read_json, replacing, write_json, write_whole

__all__ = [
    "RunDirectory",
    "as_json",
    "load_nested",
    "read_json",
    "replacing",
    "save_nested",
    "tensors_checksum",
    "write_json",
    "write_whole",
]
