"""The programs of docs/scale.md run in two processes as shown."""

import re
from pathlib import Path

import pytest

import secateur
from support.ranks import torchrun

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_three_programs() -> None:
    assert len(PROGRAMS) == 3


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_runs_in_two_processes(number: int, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAMS[number], encoding="utf-8")
    done = torchrun(2, "program.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if number == 0:
        masks = secateur.masks_of(secateur.load(tmp_path / "small"))
        assert any(not mask.all() for mask in masks.values())
    if number == 1:
        assert done.stdout.count("50.0%") >= 2  # of both layers, from one rank
    if number == 2:
        assert (tmp_path / "checkpoint" / ".metadata").exists()
