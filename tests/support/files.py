"""What a directory holds, to compare before and after."""

import json
from pathlib import Path
from typing import Any

from secateur.runs import read_json, write_json
from secateur.runs.files import file_checksum


def files(directory: Path) -> dict[str, bytes]:
    """Return the content of every file, by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def change_config(run: Path, **changes: Any) -> None:
    """Change a finished run's configuration as if it had been fitted so, checksum included."""
    config, checksums = run / "config.json", run / "checksums.json"
    config.write_text(json.dumps(read_json(config) | changes))
    write_json(checksums, read_json(checksums) | {config.name: file_checksum(config)})
