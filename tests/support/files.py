"""What a directory holds, to compare before and after."""

from pathlib import Path


def files(directory: Path) -> dict[str, bytes]:
    """Return the content of every file, by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}
