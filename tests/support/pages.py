"""The code on the pages of the documentation, found and run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from secateur.data import registry as data_registry
from secateur.networks import registry as network_registry
from secateur.training import METHODS

ROOT = Path(__file__).parents[2]
NOT_RUN = "# not run here:"
"""A block whose first line begins so is shown but not run; the line says why, for readers too."""


def pages() -> list[Path]:
    """Return the README and all pages of `docs/`, those of folders too."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the content of a page's code blocks in these languages, in order."""
    found = re.finditer(
        r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
    return [
        "".join(line.removeprefix(each["indent"]) for line in each["code"].splitlines(keepends=True))
        for each in found
        if each["language"] in languages
    ]


def run_blocks(page: Path, code: list[str], names: dict[str, object]) -> None:
    """Run blocks one after the other with shared names, as a reader does who types them in."""
    for number, block in enumerate(code, start=1):
        if not block.startswith(NOT_RUN):
            exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@contextmanager
def registries_restored() -> Iterator[None]:
    """Take out again what a page adds to the tables of methods, networks and data sets."""
    tables = (METHODS, network_registry._TABLE, data_registry._TABLE)
    before = [dict(table) for table in tables]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)
