"""The display of a fit: what is shown where, and that nothing but the display depends on it."""

import io

import pytest
from rich.console import Console

from secateur.training.progress import LiveProgress, PlainProgress, Progress, SilentProgress, for_console

ROWS = [
    {"epoch": e, "train_loss": 1.0 / e, "accuracy": 0.5 + 0.1 * e, "sparsity": 0.2 * e} for e in range(1, 5)
]


def run(progress: Progress, rows: list[dict], resumed_epoch: int = 0) -> None:
    with progress:
        progress.start(total_epochs=4, steps_per_epoch=3, resumed_epoch=resumed_epoch)
        for row in rows:
            for i in range(3):
                progress.step(3 * (row["epoch"] - 1) + i + 1, 0.25 if i == 1 else None)
            progress.epoch(row)


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, _environ={"TERM": "xterm"})


def test_without_a_terminal_each_epoch_is_one_plain_line():
    console = Console(file=io.StringIO(), width=40)
    run(for_console(console), ROWS)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "4 epochs of 3 iterations"
    assert len(lines) == 5
    assert lines[2].startswith("epoch 2/4  loss 0.500  accuracy 0.700  removed 40.0%")
    assert lines[4].endswith("0.0 min left")
    assert "\x1b" not in console.file.getvalue()


def test_a_resumed_run_says_so_and_counts_on():
    console = Console(file=io.StringIO())
    run(PlainProgress(console), ROWS[2:], resumed_epoch=2)
    assert "resumed after epoch 2" in console.file.getvalue()
    assert "epoch 3/4" in console.file.getvalue()


def test_on_a_terminal_the_bar_shows_scores_within_the_width():
    console = terminal(width=80)
    run(for_console(console), ROWS)
    last = console.file.getvalue().split("\r")[-1]
    assert "epoch 4/4" in last
    for shown in ("loss", "0.250", "accuracy", "0.900", "removed", "80.0%"):
        assert shown in last


def test_the_bar_of_a_resumed_run_starts_where_it_stopped():
    progress = LiveProgress(terminal())
    with progress:
        progress.start(total_epochs=4, steps_per_epoch=3, resumed_epoch=2)
        assert progress._bar.tasks[0].completed == 6
        assert progress._bar.tasks[0].fields["epoch"] == "3/4"


def test_steps_without_a_loss_are_not_drawn_one_by_one(monkeypatch):
    progress = LiveProgress(terminal())
    calls = []
    monkeypatch.setattr(progress, "_update", calls.append)
    for step in range(2000):
        progress.step(step)
    assert 1 <= len(calls) <= 20


@pytest.mark.parametrize("make", [LiveProgress, PlainProgress])
def test_messages_are_printed_as_they_are(make):
    console = terminal()
    with make(console) as progress:
        progress.start(total_epochs=1, steps_per_epoch=1)
        progress.message("kept [bold] of it")
    assert "kept [bold] of it" in console.file.getvalue()


def test_the_bar_counts_the_passes_of_each_average():
    progress = LiveProgress(terminal())
    with progress:
        progress.start(total_epochs=1, steps_per_epoch=1)
        for done in (1, 2, 3):
            progress.averaging(done, 3)
        progress.averaging(1, 50)
        epochs, passes = progress._bar.tasks
    assert (epochs.fields["what"], passes.fields["what"], passes.fields["epoch"]) == ("epoch", "pass", "1/50")
    assert (passes.completed, passes.total) == (1, 50)


def test_a_log_says_now_and_then_how_far_an_average_is(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("secateur.training.progress.time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO())
    progress = PlainProgress(console)
    for done in range(1, 31):
        now[0] += 1.0
        progress.averaging(done, 30)
    assert console.file.getvalue().splitlines() == ["11 of 30 passes done", "22 of 30 passes done"]


def test_a_fit_tells_of_every_pass(fit):
    class Passes(SilentProgress):
        def __init__(self):
            self.seen = []

        def averaging(self, done, total):
            self.seen.append((done, total))

    progress = Passes()
    fit(method="flat-ff", epochs=1, num_samples=3, progress=progress)
    assert progress.seen[-3:] == [(1, 3), (2, 3), (3, 3)]


def test_rows_without_a_test_set_are_shown_too():
    console = Console(file=io.StringIO())
    run(PlainProgress(console), [{"epoch": 1, "train_loss": 0.5, "accuracy": None, "sparsity": 0.0}])
    assert "accuracy" not in console.file.getvalue()


def test_an_error_stops_the_bar():
    progress = LiveProgress(terminal())

    def fail():
        with progress:
            progress.start(total_epochs=1, steps_per_epoch=1)
            assert progress._bar.live.is_started
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert not progress._bar.live.is_started
    progress.close()


def test_silence():
    run(SilentProgress(), ROWS)
    assert not isinstance(for_console(terminal()), SilentProgress)
