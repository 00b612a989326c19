"""The files of a run: written whole or not at all, checked when they are read, locked while one writes."""

from secateur.runs.checksum import tensors_checksum
from secateur.runs.writing import write_whole

__all__ = ["tensors_checksum", "write_whole"]
