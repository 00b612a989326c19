"""The runs of a comparison: started in order, so many at once, reported on, stopped together.

Instead of training, the processes here are short scripts that write what a run would.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass

import pytest

from secateur.grid import engine, jobs
from secateur.grid.cells import Cell, RunOptions
from secateur.grid.engine import rows_of
from secateur.grid.jobs import Launch
from secateur.grid.progress import Row

RUN = """
import json, os, pathlib, sys, time
directory, network, data, method, seed, kind = sys.argv[1:]
directory = pathlib.Path(directory)
write = lambda name, value: (directory / name).write_text(json.dumps(value))
directory.mkdir(parents=True, exist_ok=True)
if kind != "is silent":
    print("begins")
if kind == "fails":
    sys.exit("Error: expected a world without errors, got this one")
if kind == "is silent":
    os._exit(3)
if kind == "is killed":
    print("in the middle of it", flush=True)
    os.kill(os.getpid(), 9)
write("config.json", dict(network=network, data=data, method=method, seed=int(seed), epochs=3))
if kind == "goes on":
    (directory / "history.jsonl").write_text(json.dumps(dict(epoch=1, seconds=2.0, accuracy=0.5)))
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (directory / "interrupted").touch()
        sys.exit(1)
if kind == "will not end":
    import signal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    (directory / "history.jsonl").write_text(json.dumps(dict(epoch=1)))
    time.sleep(60)
if kind == "overlaps":
    (directory.parent / f"{seed} is here").touch()
    until = time.monotonic() + 20
    while len(list(directory.parent.glob("* is here"))) < 2:
        assert time.monotonic() < until, "nobody came"
        time.sleep(0.01)
(directory / "environment").write_text(os.environ["OMP_NUM_THREADS"])
if kind != "forgets":
    write("metrics.json", dict(accuracy=0.9, negative_log_likelihood=0.3, sparsity=0.8))
"""


@dataclass(frozen=True, kw_only=True)
class Scripted(Launch):
    """Starts scripts; what each does goes by its seed."""

    kinds: tuple[str, ...]

    def command(self, cell):
        words = (str(cell.directory(self.out)), cell.network, cell.data, cell.method, str(cell.seed))
        return [sys.executable, "-S", "-c", RUN, *words, self.kinds[cell.seed]]


class Watcher:
    """Remembers what it was told, and acts once when a condition comes true."""

    def __init__(self, rows, when=lambda rows: False, act=lambda: None):
        self.rows, self.when, self.act = rows, when, act
        self.told, self.most_at_once = [], 0

    def started(self, row):
        self.told.append(("started", row.cell.seed))
        self.most_at_once = max(self.most_at_once, sum(row.state == "running" for row in self.rows))

    def ended(self, row):
        self.told.append((row.state, row.cell.seed))

    def tick(self):
        if self.when(self.rows):
            self.when = lambda rows: False
            self.act()


def run_cells(rows, launch, *, num, view):
    """Run on threads of this process, as many as runs at once."""
    with engine.local(num) as pool:
        engine.run_cells(rows, launch, engine=pool, jobs=num, view=view)


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Prepare a run of scripts of these kinds: rows, launch, and a view."""
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.02)

    def prepare(*kinds, **watching):
        cells = [Cell("mlp", "digits", "flat-map", seed) for seed in range(len(kinds))]
        launch = Scripted(out=tmp_path, options=RunOptions(), kinds=kinds)
        rows = rows_of(cells, tmp_path, launch.options)
        return rows, launch, Watcher(rows, **watching)

    return prepare


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal, even if these tests were started where it is ignored, as under nohup."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def under_way(rows):
    return all(row.progress.epoch == 1 for row in rows if row.state == "running")


def test_runs_go_one_after_the_other_and_their_figures_are_read(begin):
    rows, launch, view = begin("works", "works")
    run_cells(rows, launch, num=1, view=view)
    assert view.told == [("started", 0), ("finished", 0), ("started", 1), ("finished", 1)]
    assert [(row.state, row.progress.accuracy) for row in rows] == [("finished", 0.9)] * 2
    assert "begins" in rows[0].cell.log(launch.out).read_text()


def test_as_many_at_once_as_asked_and_no_more(begin):
    rows, launch, view = begin("overlaps", "overlaps", "works")
    run_cells(rows, launch, num=2, view=view)  # the first two wait for each other
    assert [row.state for row in rows] == ["finished"] * 3
    assert view.most_at_once == 2


def test_a_failed_run_does_not_stop_the_rest_and_says_why(begin):
    rows, launch, view = begin("fails", "works", "is silent", "is killed", "forgets")
    run_cells(rows, launch, num=1, view=view)
    assert [row.state for row in rows] == ["failed", "finished", "failed", "failed", "failed"]
    assert rows[0].reason == "expected a world without errors, got this one"
    assert rows[2].reason == "exit code 3, and nothing in its log"
    assert rows[3].reason == "ended by SIGKILL; the last line of its log is: in the middle of it"
    assert rows[4].reason.startswith("expected a finished run (metrics.json)")


def test_a_log_of_an_earlier_attempt_stays_and_is_not_the_reason(begin):
    rows, launch, view = begin("is silent")
    log = rows[0].cell.log(launch.out)
    log.parent.mkdir()
    log.write_text("Error: the reason of last time\n")
    run_cells(rows, launch, num=1, view=view)
    assert rows[0].reason == "exit code 3, and nothing in its log"
    assert log.read_text().startswith("Error: the reason of last time\n")


def test_what_is_finished_is_skipped(begin):
    rows, launch, view = begin("works", "works")
    run_cells(rows[:1], launch, num=1, view=view)
    again, launch, view = begin("fails", "works")
    assert [row.state for row in again] == ["skipped", "waiting"]
    run_cells(again, launch, num=1, view=view)
    assert view.told == [("started", 1), ("finished", 1)]


def test_ctrl_c_is_passed_on_and_runs_keep_what_they_have(begin, interruptible):
    rows, launch, view = begin(
        "works",
        "goes on",
        "goes on",
        "works",
        when=lambda rows: rows[2].state == "running" and under_way(rows),
        act=lambda: os.kill(os.getpid(), signal.SIGINT),
    )
    started_at = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_cells(rows, launch, num=2, view=view)
    assert time.monotonic() - started_at < jobs.SECONDS_TO_STOP / 2
    assert [row.state for row in rows] == ["finished", "waiting", "waiting", "waiting"]
    assert all((row.cell.directory(launch.out) / "interrupted").exists() for row in rows[1:3])
    assert not rows[3].cell.directory(launch.out).exists()
    assert not list(launch.out.glob(".stop*"))


def test_a_run_that_does_not_listen_is_ended(begin, interruptible, monkeypatch):
    monkeypatch.setattr(jobs, "SECONDS_TO_STOP", 0.2)
    rows, launch, view = begin(
        "will not end",
        when=lambda rows: rows[0].progress.epoch == 1,
        act=lambda: os.kill(os.getpid(), signal.SIGINT),
    )
    started_at = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_cells(rows, launch, num=1, view=view)
    assert time.monotonic() - started_at < 30
    assert rows[0].state == "waiting"


def test_an_error_of_the_view_leaves_no_run_behind(begin, interruptible):
    def stumble():
        raise OSError("the terminal went away")

    rows, launch, view = begin(
        "goes on", when=lambda rows: rows[0].progress.epoch == 1 and under_way(rows), act=stumble
    )
    with pytest.raises(OSError, match="went away"):
        run_cells(rows, launch, num=1, view=view)
    assert (rows[0].cell.directory(launch.out) / "interrupted").exists()


@pytest.mark.parametrize(("given", "used"), [(None, "3"), ("5", "5")])
def test_threads_are_shared_out_unless_the_user_says(begin, monkeypatch, given, used):
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    rows, launch, view = begin("works")
    launch = Scripted(out=launch.out, options=RunOptions(), threads=3, kinds=launch.kinds)
    run_cells(rows, launch, num=1, view=view)
    assert (rows[0].cell.directory(launch.out) / "environment").read_text() == used


def test_a_run_is_a_fit_that_goes_on_where_it_was(tmp_path):
    launch = Launch(
        out=tmp_path, options=RunOptions(epochs=2), device="cpu", data_dir=tmp_path / "data", threads=1
    )
    cell = Cell("mlp", "digits", "calibrated", 3)
    assert launch.command(cell) == [
        sys.executable, "-m", "secateur", "fit", "mlp", "digits", "--method", "calibrated", "--seed", "3",
        "--device", "cpu", "--epochs", "2", "--data-dir", str(tmp_path / "data"),
        "--out", str(tmp_path / "runs" / "mlp-digits-calibrated-seed3"), "--resume",
    ]  # fmt: skip


def test_a_row_is_waiting_until_it_is_started(tmp_path):
    (row,) = rows_of([Cell("mlp", "digits", "flat-map", 0)], tmp_path, RunOptions(epochs=4))
    assert row == Row(row.cell, row.progress, "waiting")
    assert (row.progress.epoch, row.progress.epochs) == (0, 4)
