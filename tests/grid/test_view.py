"""What a person sees of a comparison, on a terminal of any height and in a log."""

import io
import math

import pytest
from rich.console import Console
from rich.live import Live

from secateur.grid.cells import Cell
from secateur.grid.progress import Row, RunProgress
from secateur.grid.view import LiveGrid, PlainGrid, estimate_table, shown_on, status_line

METHODS = ("flat-map", "flat-ff", "calibrated", "ivon", "bmr-spike-and-slab")


def row(state="waiting", *, epoch=0, seconds=0.0, seed=0, method="calibrated", network="lenet", **more):
    known = RunProgress(
        epoch=epoch,
        epochs=10,
        seconds=seconds,
        written_at=1000.0,
        accuracy=0.9 if epoch else math.nan,
        sparsity=0.25 if epoch else math.nan,
    )
    return Row(Cell(network, "digits", method, seed), known, state, **more)


def grid(num_running=0):
    """Sixty runs: two networks, five methods, six seeds."""
    rows = [
        row(network=network, method=method, seed=seed)
        for seed in range(6)
        for network in ("mlp", "lenet")
        for method in METHODS
    ]
    for each in rows[:num_running]:
        each.state, each.progress = "running", row(epoch=3, seconds=6.0).progress
    return rows


def console(**options):
    return Console(file=io.StringIO(), width=80, color_system=None, **options)


def drawn(rows, height):
    screen = console(force_terminal=True, height=height)
    screen.print(LiveGrid(rows, 2, Live(console=screen)).drawing(height))
    return screen.file.getvalue()


def test_a_small_grid_is_shown_whole_with_what_is_known():
    rows = [row("running", epoch=3, seconds=6.0), row(method="ivon"), row("failed", seed=1, reason="x")]
    lines = drawn(rows, 24).splitlines()
    assert lines[1].split() == ["lenet", "on", "digits"]
    assert [line.split()[:3] for line in lines[2:5]] == [
        ["calibrated", "0", "running"],
        ["calibrated", "1", "failed"],
        ["ivon", "0", "waiting"],
    ]
    assert lines[2].split()[3:6] == ["3/10", "0.900", "–"]
    assert "25.0" in lines[2]
    assert lines[-1].startswith("3 runs: 1 running, 1 failed, 1 waiting")


@pytest.mark.parametrize("height", [10, 16, 24, 40, 80])
@pytest.mark.parametrize("num_running", [0, 2, 30])
def test_a_large_grid_never_outgrows_the_terminal(height, num_running):
    text = drawn(grid(num_running), height)
    assert len(text.splitlines()) < height
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "60 runs" in text


def test_what_does_not_fit_is_counted_and_what_runs_is_shown():
    rows = grid(2)
    rows[-1].state = "failed"
    text = drawn(rows, 24)
    running, _, counts = text.partition("all runs")
    assert running.count("3/10") == 2
    mlp, lenet, status = counts.splitlines()[1:4]
    assert mlp.split() == ["mlp", "on", "digits", "2", "28"]
    assert lenet.split() == ["lenet", "on", "digits", "1", "29"]
    assert "2 running, 1 failed, 57 waiting" in status


def test_the_live_view_ends_with_all_runs_that_have_begun():
    screen = console(force_terminal=True, height=24)
    rows = grid(50)
    with shown_on(screen, rows, 2) as view:
        assert isinstance(view, LiveGrid)
        view.started(rows[0])
        view.tick()
        view.ended(rows[0])
        view.tick()
    final = screen.file.getvalue().rpartition("mlp on digits")[2]
    assert final.count("3/10") == final.count("/10") == 50


def test_a_log_gets_a_line_for_each_start_and_end():
    plain = console()
    rows = [row("skipped", epoch=10), row("running", seed=1, epoch=4), row(seed=2)]
    with shown_on(plain, rows, 1) as view:
        assert isinstance(view, PlainGrid)
        view.started(rows[1])
        view.tick()
        rows[1].state, rows[1].reason = "failed", "expected [/a] number, got nan"
        view.ended(rows[1])
        rows[2].state, rows[2].progress = "finished", row(epoch=10, seconds=65.0).progress
        view.ended(rows[2])
    assert plain.file.getvalue().splitlines() == [
        "started   lenet-digits-calibrated-seed1 after epoch 4 of 10",
        "failed    lenet-digits-calibrated-seed1: expected [/a] number, got nan [2 of 3 done]",
        "finished  lenet-digits-calibrated-seed2: accuracy 0.900, NLL –, 25.0\N{NO-BREAK SPACE}% removed, "
        "1 min 5 s of training [3 of 3 done]",
    ]


def test_the_status_tells_the_time_only_where_it_is_known():
    assert str(status_line([row()], math.nan)) == "1 runs: 1 waiting"
    assert (
        str(status_line([row(), row("running")], 3700.0))
        == "2 runs: 1 running, 1 waiting; about 1 h 1 min left"
    )


def test_an_estimate_has_a_line_for_each_network_data_and_method():
    plain = Console(file=io.StringIO(), width=140, color_system=None)
    rows = [
        row("skipped", epoch=10, seconds=120.0),
        row(epoch=4, seed=1),
        row(seed=2),
        row("skipped", method="ivon"),
    ]
    plain.print(estimate_table(rows))
    _, calibrated, ivon = plain.file.getvalue().splitlines()
    assert " ".join(calibrated.split()) == "lenet digits calibrated 1 (at 4/10) 2 0 12.0 2 min 0 s"
    assert ivon.split() == ["lenet", "digits", "ivon", "0"]


def test_without_a_finished_epoch_there_is_no_estimate():
    plain = Console(file=io.StringIO(), width=140, color_system=None)
    plain.print(estimate_table([row()]))
    assert plain.file.getvalue().splitlines()[1].split() == ["lenet", "digits", "calibrated", "0", "–", "–"]
