"""How far a run is, read from its directory: not begun, under way, finished, or of something else."""

import json
import math

import pytest

from secateur import training
from secateur.grid.cells import Cell, RunOptions
from secateur.grid.progress import RunProgress, is_finished, run_progress

CELL = Cell("lenet", "fashion-mnist", "calibrated", 0)


@pytest.fixture
def out(tmp_path, write_run):
    """A comparison that holds the finished run of `CELL`: 40 epochs, batch 120."""
    write_run(CELL.directory(tmp_path))
    return tmp_path


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_finished_run_is_finished_whatever_was_not_asked_for(out):
    assert is_finished(CELL, out, RunOptions())
    assert is_finished(CELL, out, RunOptions(epochs=40, batch_size=120, samples=5))


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(epochs=39),
        RunOptions(sparsity=0.9),
        RunOptions(batch_size=60),
        RunOptions(augment=True),
        RunOptions(autocast=True),
    ],
)
def test_with_other_options_it_is_not(out, options):
    assert not is_finished(CELL, out, options)


def test_a_sparsity_does_not_concern_a_method_that_never_reduces(tmp_path, write_run):
    dense = Cell("lenet", "fashion-mnist", "flat-map", 0)
    write_run(dense.directory(tmp_path))
    change(dense.directory(tmp_path) / "config.json", method="flat-map", sparsity=None)
    assert is_finished(dense, tmp_path, RunOptions(sparsity=0.9))


@pytest.mark.parametrize(
    "values", [{"network": "mlp"}, {"data": "digits"}, {"method": "ivon"}, {"seed": 1}, {"augment": True}]
)
def test_a_run_of_something_else_in_its_place_is_not_its_run(out, values):
    change(CELL.directory(out) / "config.json", **values)
    assert not is_finished(CELL, out, RunOptions())


def test_a_data_set_from_unpacked_files_is_that_data_set(out):
    change(CELL.directory(out) / "config.json", data="fashion-mnist (local files)")
    assert is_finished(CELL, out, RunOptions())


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_without_a_whole_file_it_is_not_finished(out, name, content):
    path = CELL.directory(out) / name
    path.unlink() if content is None else path.write_text(content)
    assert not is_finished(CELL, out, RunOptions())


def test_figures_are_the_epochs_until_the_run_is_judged(out):
    directory = CELL.directory(out)
    judged = run_progress(CELL, out, RunOptions())
    assert judged.epoch == judged.epochs == 40
    assert judged.accuracy == json.loads((directory / "metrics.json").read_text())["accuracy"]
    (directory / "metrics.json").unlink()
    lines = (directory / "history.jsonl").read_text().splitlines(keepends=True)
    (directory / "history.jsonl").write_text("".join(lines[:10]))
    row = json.loads(lines[9])
    under_way = run_progress(CELL, out, RunOptions())
    assert (under_way.epoch, under_way.epochs) == (10, 40)
    assert under_way.accuracy == row["accuracy"]
    assert under_way.sparsity == row["sparsity"]
    assert under_way.seconds_left() == pytest.approx(3 * row["seconds"])
    later = under_way.written_at + 100
    assert under_way.seconds_left(now=later) == pytest.approx(3 * row["seconds"] - 100)
    assert under_way.seconds_left(now=later + 1e9) == 0


def test_a_run_that_has_not_begun_has_the_epochs_it_will_have(tmp_path):
    assert run_progress(CELL, tmp_path, RunOptions(epochs=7)).epochs == 7
    unknown = run_progress(CELL, tmp_path, RunOptions())
    assert unknown.epochs == training.method_named("calibrated").default_epochs
    assert unknown.epoch == 0
    assert math.isnan(unknown.accuracy)
    assert math.isnan(unknown.seconds_left())


@pytest.mark.parametrize("content", ["", "{", "[]\n", '{"epoch": "one"}\n'])
def test_a_damaged_history_says_nothing(out, content):
    directory = CELL.directory(out)
    (directory / "history.jsonl").write_text(content)
    (directory / "metrics.json").unlink()
    known = run_progress(CELL, out, RunOptions())
    assert (known.epoch, known.epochs) == (0, 40)
    assert math.isnan(known.accuracy)


def test_the_pace_so_far_is_the_pace_to_come():
    assert RunProgress(epoch=5, epochs=20, seconds=50.0).seconds_left() == 150
