"""The time a comparison will take: from its own finished runs, else from real steps taken now."""

import json
import math

import pytest
import torch

from secateur import data, training
from secateur.grid import estimate
from secateur.grid.cells import Cell, RunOptions
from secateur.grid.estimate import (
    DataShape,
    iterations_per_epoch,
    makespan,
    pace_of_finished,
    paces,
    timed_pace,
)

CELL = Cell("lenet", "fashion-mnist", "calibrated", 0)
HERE = {"device": "cpu", "data_dir": None, "threads": 1}


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


@pytest.mark.parametrize("name", ["digits"])
def test_what_is_known_of_a_data_set_is_so(name):
    loaded = data.load(name)
    assert DataShape.of(name) == DataShape(len(loaded.train), loaded.image_shape, loaded.num_classes)


def test_another_data_set_is_looked_at(monkeypatch):
    known = estimate._KNOWN["digits"]
    monkeypatch.setattr(estimate, "_KNOWN", {})
    assert DataShape.of("digits") == known


def test_iterations_are_whole_batches_of_what_is_not_held_out():
    shape = DataShape.of("fashion-mnist")
    dense = Cell("lenet", "fashion-mnist", "flat-map", 0)
    assert iterations_per_epoch(dense, RunOptions(), shape) == 500  # the paper's
    assert iterations_per_epoch(CELL, RunOptions(), shape) == 58_000 // 120
    assert iterations_per_epoch(dense, RunOptions(batch_size=1000), shape) == 60


def test_finished_runs_of_the_device_tell_their_pace_and_damaged_ones_nothing(tmp_path, write_run):
    paths = [
        write_run(Cell("lenet", "fashion-mnist", "calibrated", seed).directory(tmp_path)) for seed in range(4)
    ]
    for path, seconds in zip(paths, (40.0, 80.0, 120.0, 0.0), strict=True):
        metrics = json.loads((path / "metrics.json").read_text())
        metrics |= {"seconds": seconds, "seconds_per_iteration": seconds / 20_000}
        (path / "metrics.json").write_text(json.dumps(metrics))
    (paths[3] / "config.json").write_text("{")
    (pace,) = pace_of_finished(tmp_path, device="cpu").values()
    assert (pace.seconds_per_iteration, pace.seconds_per_epoch) == (80 / 20_000, 80 / 40)
    assert pace.source == "finished runs"
    config = json.loads((paths[0] / "config.json").read_text())
    for path in paths:
        (path / "config.json").write_text(json.dumps(config | {"device": "cuda"}))
    assert pace_of_finished(tmp_path, device="cpu") == {}


def test_finished_runs_are_believed_and_the_rest_is_timed_once(tmp_path, write_run, monkeypatch):
    write_run(CELL.directory(tmp_path))
    asked, told = [], []

    def timed(cell, image_shape, num_classes, batch_size, **_):
        asked.append((cell.method, image_shape, num_classes, batch_size))
        return 0.5

    monkeypatch.setattr(estimate, "timed_pace", timed)
    others = [
        Cell("lenet", name, "flat-map", seed) for seed in (0, 1) for name in ("fashion-mnist", "cifar10")
    ]
    found = paces([CELL, *others], tmp_path, RunOptions(), before_timing=told.append, **HERE)
    assert found[CELL].source == "finished runs"
    assert asked == [("flat-map", (1, 32, 32), 10, 120), ("flat-map", (3, 32, 32), 10, 120)]
    assert told == others[:2]
    assert found[others[0]].seconds_per_epoch == 0.5 * 500
    assert found[others[1]].seconds_per_epoch == found[others[3]].seconds_per_epoch == 0.5 * (50_000 // 120)
    assert found[others[1]].source == "timed now"


@pytest.mark.parametrize("method", training.method_names())
def test_real_steps_are_timed_and_leave_no_trace(method, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "MOST_TIMED_STEPS", 2)
    monkeypatch.chdir(tmp_path)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    cell = Cell("mlp", "digits", method, 0)
    seconds = timed_pace(cell, (1, 8, 8), 10, 16, options=RunOptions())
    assert 0 < seconds < 5
    assert torch.equal(torch.get_rng_state(), state)
    paces([cell], tmp_path / "out", RunOptions(), **HERE)
    assert torch.get_num_threads() == threads
    assert not list(tmp_path.iterdir())


def test_larger_batches_take_longer(monkeypatch):
    monkeypatch.setattr(estimate, "MOST_TIMED_STEPS", 5)
    cell = Cell("mlp", "digits", "flat-map", 0)
    few, many = (timed_pace(cell, (1, 8, 8), 10, size, options=RunOptions()) for size in (2, 2000))
    assert many > few
