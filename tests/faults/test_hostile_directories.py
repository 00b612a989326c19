"""A run directory that someone else made writes nowhere else, and shows its text as text."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from secateur.cli.compare import LOCK
from secateur.errors import ArtifactError
from secateur.grid import engine
from secateur.grid.cells import Cell, RunOptions
from secateur.grid.jobs import Launch
from secateur.grid.view import PlainGrid
from secateur.reports import run_page
from secateur.runs import RunDirectory, save_nested, write_whole
from secateur.runs.directory import only_writer
from support.synthetic_run import write_run

SCRIPT = '<script>alert("x")</script>'


def set_everywhere(value: Any, path: tuple[Any, ...], text: str) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = text


TEXTS = [
    ("metrics.json", ("evaluated_on",)),
    ("metrics.json", ("layers", 0, "name")),
    *(("config.json", (name,)) for name in ("network", "data", "method", "device", "command")),
    *(("config.json", ("versions", name)) for name in ("secateur", "torch", "python")),
]


@pytest.mark.parametrize(("file", "path"), TEXTS)
def test_text_of_a_run_is_escaped_in_its_page(tmp_path: Path, file: str, path: tuple[Any, ...]) -> None:
    run = write_run(tmp_path / "run", num_epochs=12)
    values = json.loads((run / file).read_text())
    set_everywhere(values, path, SCRIPT)
    (run / file).write_text(json.dumps(values))
    page = run_page.write(run).read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_a_page_is_not_written_through_a_planted_link(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_epochs=12)
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    for name in ("report.html", "report.html.partial"):
        (run / name).symlink_to(precious)
    assert run_page.write(run).read_text().startswith("<!doctype html>")
    assert precious.read_bytes() == b"mine"
    assert not (run / "report.html").is_symlink()


@pytest.mark.parametrize("target", ["precious", "nowhere"])
def test_the_lock_of_a_comparison_is_not_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / LOCK).symlink_to(tmp_path / target)
    refused = pytest.raises(ArtifactError, match="expected a file to lock")
    with refused, only_writer(tmp_path / "runs", what="comparison", lock=LOCK):
        pass
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()


def test_no_file_of_a_run_is_written_through_a_planted_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    names = (run.config, run.history, run.metrics, run.model, run.posterior, run.calibration, run.checkpoint)
    for path in names:
        path.symlink_to(precious)
    run.finish(
        config={},
        metrics={},
        history=[],
        model={"weight": torch.ones(1)},
        save_posterior=lambda path: write_whole(path, b"posterior"),
        calibration=torch.ones(1),
    )
    save_nested(run.checkpoint, {})
    assert precious.read_bytes() == b"mine"
    assert not any(path.is_symlink() for path in names)


@pytest.mark.parametrize("name", ["logs", "logs/mlp-digits-flat-map-seed0.log"])
def test_no_log_is_written_through_a_planted_link(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "log").write_bytes(b"mine")
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere" / ("" if name == "logs" else "log"))
    options = RunOptions(epochs=1)
    rows = engine.rows_of([Cell("mlp", "digits", "flat-map", 0)], tmp_path / "out", options)
    launch = Launch(out=tmp_path / "out", options=options)
    view = PlainGrid(rows, Console(file=io.StringIO()))
    with engine.local(1) as pool, pytest.raises(ArtifactError, match="expected to write it, got"):
        engine.run_cells(rows, launch, engine=pool, jobs=1, view=view)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["log"]
    assert (tmp_path / "elsewhere" / "log").read_bytes() == b"mine"
