"""Every Python block of the README and of `docs/` runs as shown, and every command names options that exist.

The blocks of a page share their names, and run in an empty directory. A new page is found by itself.
"""

import re
import shlex
from pathlib import Path

import pytest
import typer

from secateur.cli import app
from support.pages import NOT_RUN, ROOT, blocks, pages, registries_restored, run_blocks

RUN_ELSEWHERE = {
    "README.md": "test_readme.py",
    "docs/extending.md": "test_extending.py",
    "docs/lightning.md": "test_recipes.py",
    "docs/own-data.md": "test_own_data_page.py",
    "docs/scale.md": "test_scale.py",
    "docs/transformers.md": "test_recipes.py",
}
"""Pages whose blocks another file runs, with a look at what comes out."""

EXPECTED_NOT_RUN = 0
COMMANDS = typer.main.get_command(app).commands


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


WITH_CODE = [page for page in pages() if blocks(page, "python") and name(page) not in RUN_ELSEWHERE]
SHELL_LINES = [
    pytest.param(line.strip(), id=f"{name(page)}: {line.strip()[:60]}")
    for page in pages()
    for block in blocks(page, "sh", "bash", "shell", "console")
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(\$ )?(\.venv/bin/)?secateur ", line.strip())
]


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_a_page_runs_as_shown(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    names: dict[str, object] = {"__name__": "__main__"}
    with registries_restored():
        run_blocks(page, blocks(page, "python"), names)


def test_every_block_is_run() -> None:
    left_out = [block for page in pages() for block in blocks(page, "python") if block.startswith(NOT_RUN)]
    assert len(left_out) == EXPECTED_NOT_RUN
    for page, runner in RUN_ELSEWHERE.items():
        assert blocks(ROOT / page, "python")
        assert Path(page).name in (ROOT / "tests" / runner).read_text(encoding="utf-8")


def test_python_is_marked_as_python() -> None:
    unmarked = [
        name(page)
        for page in pages()
        for block in blocks(page, "py", "python3", "pycon", "text")
        if "import secateur" in block
    ]
    assert unmarked == []


@pytest.mark.parametrize("line", SHELL_LINES)
def test_a_command_exists_with_its_options(line: str) -> None:
    words = shlex.split(line.removeprefix("$ "), comments=True)[1:]
    if words[0].startswith("-"):
        return
    command = COMMANDS[words[0]]
    context = typer.Context(command, info_name=words[0])
    command.make_parser(context).parse_args(words[1:])
