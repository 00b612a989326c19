"""How far a run is, read from its directory: not begun, under way, finished, or of something else."""

import json
import math

import pytest

from secateur import training
from secateur.grid.cells import Cell, RunOptions
from secateur.grid.progress import (
    Row,
    RunProgress,
    epoch_seconds,
    is_finished,
    makespan,
    run_progress,
    seconds_left,
)

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
@pytest.mark.parametrize("content", [None, "", "{", "{}", "[1]"])
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


@pytest.mark.parametrize(
    ("durations", "jobs", "total"),
    [
        ([], 3, 0),
        ([5], 3, 5),
        ([1, 2, 3], 1, 6),
        ([1, 2, 3], 3, 3),
        ([4, 1, 1, 1], 2, 4),
        ([1, 1, 1, 4], 2, 5),
        ([1, 1], 1000, 1),
    ],
)
def test_the_last_run_ends_when_the_jobs_have_done_them_in_order(durations, jobs, total):
    assert makespan([float(seconds) for seconds in durations], jobs) == total


def test_what_is_not_known_for_one_is_not_known_for_all():
    assert math.isnan(makespan([1.0, math.nan], 2))


def row(state="waiting", *, epoch=0, seconds=0.0, seed=0, method="calibrated", network="lenet"):
    known = RunProgress(epoch=epoch, epochs=10, seconds=seconds, written_at=1000.0)
    return Row(Cell(network, "digits", method, seed), known, state)


def test_the_time_left_is_that_of_runs_like_it_in_the_order_they_come():
    known = row("finished", epoch=10, seconds=100.0)
    assert seconds_left([known, row(seed=1), row(seed=2)], 1, now=0.0) == 200
    assert seconds_left([known, row(seed=1), row(seed=2)], 2, now=0.0) == 100
    other = row("finished", epoch=10, seconds=30.0, method="ivon")
    assert seconds_left([known, other, row("waiting", seed=1, method="ivon")], 1, now=0.0) == 30
    assert seconds_left([known, other, row(seed=1, method="flat-ff")], 1, now=0.0) == 65  # of its network
    assert seconds_left([known, row(network="mlp")], 1, now=0.0) == 100  # of any
    running = row("running", epoch=4, seconds=40.0, seed=1)
    assert seconds_left([known, running, row(seed=2)], 2, now=1010.0) == 100
    assert seconds_left([known, running], 2, now=1010.0) == 50  # ten of its sixty seconds have gone by
    assert math.isnan(seconds_left([row(), row("running", seed=1)], 2, now=0.0))
    assert seconds_left([known], 2, now=0.0) == 0


def test_an_epoch_takes_what_unfinished_runs_say_and_their_own_pace_first():
    own, other = row(epoch=2, seconds=8.0), row(epoch=1, seconds=1.0, seed=1)
    assert epoch_seconds(own, [own, other]) == 4
    assert epoch_seconds(row(seed=2), [own, other]) == 2.5
    assert math.isnan(epoch_seconds(row(), [row(), row(epoch=1)]))  # no time in its history
