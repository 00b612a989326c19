"""`secateur compare` runs what is missing, goes on after anything, and never trains what cannot be compared.

Most tests replace training by a short script; the last ones train.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from secateur.cli.compare import LOCK
from secateur.grid import jobs
from secateur.grid.jobs import Launch
from secateur.runs.directory import only_writer

RUN = """
import json, os, pathlib, sys
directory, network, data, method, seed, epochs, behaviour = sys.argv[1:]
directory = pathlib.Path(directory)
if behaviour == "fail":
    sys.exit("Error: expected a finite loss, got nan")
directory.mkdir(parents=True)
write = lambda name, value: (directory / name).write_text(json.dumps(value))
write("config.json", dict(network=network, data=data, method=method, seed=int(seed), epochs=int(epochs),
    device="cpu"))
(directory / "history.jsonl").write_text(json.dumps(dict(epoch=int(epochs), seconds=8.0)))
write("metrics.json", dict(accuracy=0.9, negative_log_likelihood=0.3, sparsity=0.8, seconds=8.0,
    seconds_per_iteration=0.01))
if behaviour == "interrupt":
    os.kill(os.getppid(), 2)
"""
GRID = ("--networks", "mlp", "--data", "digits", "--methods", "flat-map,calibrated", "--seeds", "0,1")
FOUR = [f"mlp-digits-{method}-seed{seed}" for seed in (0, 1) for method in ("flat-map", "calibrated")]


@pytest.fixture
def behaviour(monkeypatch):
    """Replaces training; what the run of a name does can be set here."""
    by_name = {}

    def command(self, cell):
        words = (cell.directory(self.out), cell.network, cell.data, cell.method, cell.seed)
        last = (self.options.epochs or 5, by_name.get(cell.name, "work"))
        return [sys.executable, "-S", "-c", RUN, *map(str, words + last)]

    monkeypatch.setattr(Launch, "command", command)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.02)
    return by_name


@pytest.fixture
def pages(monkeypatch):
    """Replaces the results page; keeps for which directories it was written."""
    written = []

    def write(out, **_options):
        written.append(out)
        return out / "comparison.html"

    module = SimpleNamespace(write=write)
    monkeypatch.setitem(sys.modules, "secateur.reports.comparison", module)
    monkeypatch.setattr("secateur.reports.comparison", module, raising=False)
    return written


@pytest.fixture
def compare(secateur, behaviour, pages, monkeypatch, tmp_path):
    """Run the command in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: secateur("compare", *words)


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal, also for what is started here, even where these tests run without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def states(result):
    return [line.split()[0] + " " + line.split()[1].rstrip(":") for line in result.stdout.splitlines()[:-1]]


def test_every_cell_is_run_and_the_results_are_put_together(compare, pages, tmp_path):
    result = compare(*GRID, "--out", "here")
    assert result.exit_code == 0, result.stderr
    assert [name for name in states(result) if name.startswith("finished")] == [f"finished {n}" for n in FOUR]
    assert "accuracy 0.900, NLL 0.300, 80.0" in result.stdout
    assert result.stdout.splitlines()[-1] == "Comparison: here/comparison.html"
    assert pages == [Path("here")]
    assert sorted(path.name for path in (tmp_path / "here" / "runs").iterdir()) == sorted(FOUR)
    assert sorted(path.stem for path in (tmp_path / "here" / "logs").iterdir()) == sorted(FOUR)


def test_a_second_time_nothing_is_run_but_the_page_is_written(compare, pages):
    compare(*GRID, "--out", "here")
    result = compare("--out", "here")
    assert result.exit_code == 0
    assert result.stdout == "Comparison: here/comparison.html\n"
    assert len(pages) == 2


def test_the_default_place(compare, tmp_path):
    assert compare(*GRID).exit_code == 0
    assert (tmp_path / "comparison" / "comparison.json").is_file()


def test_another_list_adds_runs(compare):
    compare(*GRID, "--out", "here")
    result = compare("--out", "here", "--seeds", "2")
    assert states(result) == [
        f"{what} mlp-digits-{method}-seed2"
        for method in ("flat-map", "calibrated")
        for what in ("started", "finished")
    ]


def test_failures_are_told_at_the_end_and_do_not_stop_the_rest(compare, behaviour, pages):
    behaviour["mlp-digits-flat-map-seed0"] = "fail"
    result = compare(*GRID, "--out", "here")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: mlp-digits-flat-map-seed0: expected a finite loss, got nan "
        "(log: here/logs/mlp-digits-flat-map-seed0.log)\n"
    )
    assert sum(state.startswith("finished") for state in states(result)) == 3
    assert pages == [Path("here")]
    del behaviour["mlp-digits-flat-map-seed0"]
    again = compare("--out", "here")
    assert again.exit_code == 0
    assert [state.split()[0] for state in states(again)] == ["started", "finished"]


def test_where_all_failed_there_are_no_results(compare, behaviour, pages):
    behaviour |= dict.fromkeys(FOUR, "fail")
    result = compare(*GRID)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 4
    assert pages == []


def test_an_interruption_says_how_to_go_on(compare, behaviour, pages, interruptible):
    behaviour[FOUR[1]] = "interrupt"
    result = compare(*GRID, "--out", "here", "--epochs", 4)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: interrupted; finished epochs are kept in here, go on with: secateur compare --networks mlp "
        "--data digits --methods flat-map,calibrated --seeds 0,1 --out here --epochs 4\n"
    )
    assert pages == []
    again = compare("--out", "here")
    assert again.exit_code == 0
    assert [state for state in states(again) if state.startswith("started")] == [
        f"started {name}" for name in FOUR[2:]
    ]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--networks", "mlp,lenett"), 2, "did you mean lenet?"),
        (("--data", "mnist"), 2, "expected one of the data sets digits,"),
        (("--methods", "bmr"), 2, "expected one of the methods calibrated,"),
        (("--methods", "ivon,ivon"), 1, "--methods: expected each one once, got ivon twice"),
        (("--seeds", "0,1,1"), 1, "--seeds: expected each one once, got 1 twice"),
        (("--seeds", "one"), 1, "--seeds: expected whole numbers"),
        (("--networks", ""), 1, "--networks: expected names"),
        (("--sparsity", 1), 1, "--sparsity: expected a share in [0, 1), got 1.0"),
        (("--device", "abacus"), 1, "device: expected auto, cpu or a device of this machine"),
        (("--jobs", 0), 2, "--jobs"),
        (("--scheduler", "local", "--slurm", "main"), 2, "expected one of --scheduler and --slurm, got both"),
        (("--epochs", 0), 2, "--epochs"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(compare, tmp_path, words, code, said):
    result = compare("--out", "here", *words)
    assert result.exit_code == code
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def test_options_that_contradict_the_runs_are_refused(compare, tmp_path):
    compare(*GRID, "--out", "here", "--epochs", 4)
    record = (tmp_path / "here" / "comparison.json").read_text()
    result = compare("--out", "here", "--epochs", 5)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "(--epochs 4), got --epochs 5" in result.stderr
    assert (tmp_path / "here" / "comparison.json").read_text() == record


def test_a_second_comparison_in_the_directory_is_refused(compare, tmp_path):
    with only_writer(tmp_path / "here", what="comparison", lock=LOCK):
        result = compare(*GRID, "--out", "here")
        assert result.exit_code == 1
        assert "expected no other comparison there, got one" in result.stderr
        assert not (tmp_path / "here" / "comparison.json").exists()
        assert compare(*GRID, "--out", "there").exit_code == 0


def spaced(line):
    """Return a table's line with single spaces."""
    return " ".join(line.split())


class TestDryRun:
    def test_it_prints_the_grid_and_writes_nothing(self, compare, tmp_path):
        result = compare(*GRID, "--out", "here", "--epochs", 10, "--jobs", 2, "--dry-run")
        assert result.exit_code == 0, result.stderr
        lines = result.stdout.splitlines()
        assert spaced(lines[1]) == "mlp digits flat-map 0 1 – –"
        assert spaced(lines[2]).startswith("mlp digits calibrated 0 1 ")
        assert "4 runs in here, 0 of them finished." in lines
        assert "known once the first run has finished an epoch" in lines[-1]
        assert not list(tmp_path.iterdir())

    def test_finished_epochs_tell_the_time_of_the_others(self, compare, tmp_path):
        compare(*GRID, "--out", "here")
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        result = compare("--out", "here", "--seeds", "2", "--dry-run")
        lines = result.stdout.splitlines()
        # eight seconds for five epochs, by method's default of fifty
        assert spaced(lines[1]) == "mlp digits flat-map 2 0 1 1.6 1 min 20 s"
        assert "6 runs in here, 4 of them finished." in lines
        assert any(line.startswith("About 2 min 40 s for the rest, 1 at once") for line in lines)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    def test_it_looks_while_another_comparison_goes_on(self, compare, tmp_path):
        with only_writer(tmp_path / "here", what="comparison", lock=LOCK):
            assert compare(*GRID, "--out", "here", "--dry-run").exit_code == 0

    def test_with_nothing_left_it_says_so(self, compare):
        compare(*GRID, "--out", "here")
        result = compare("--out", "here", "--dry-run")
        assert "4 runs in here, 4 of them finished." in result.stdout
        assert "About" not in result.stdout


def test_help_shows_an_example(secateur):
    result = secateur("compare", "--help")
    assert result.exit_code == 0
    assert "Example: secateur compare " in result.stdout
    assert "`" not in result.stdout


def command(*words):
    return [sys.executable, "-m", "secateur", *map(str, words)]


def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SECATEUR")}
    return kept | {"OMP_NUM_THREADS": "1"}


def ran(*words):
    return subprocess.run(command(*words), env=environment(), capture_output=True, text=True, check=False)


def test_training_beside_a_data_set_that_is_not_there(secateur, pages, monkeypatch, tmp_path):
    """The real thing, if only one epoch of it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = secateur(
        "compare", "--networks", "mlp", "--data", "fashion-mnist,digits", "--methods", "flat-map",
        "--epochs", 1, "--samples", 2, "--jobs", 2, "--device", "cpu", "--out", tmp_path,
        "--data-dir", tmp_path / "nowhere",
    )  # fmt: skip
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: mlp-fashion-mnist-flat-map-seed0: expected an existing folder as data_dir, got "
        f"{tmp_path}/nowhere (log: {tmp_path}/logs/mlp-fashion-mnist-flat-map-seed0.log)\n"
    )
    run = tmp_path / "runs" / "mlp-digits-flat-map-seed0"
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"accuracy {metrics['accuracy']:.3f}" in result.stdout
    assert (run / "report.html").is_file()
    assert "MLP on digits" in (tmp_path / "logs" / "mlp-digits-flat-map-seed0.log").read_text()


@pytest.mark.slow
def test_interrupted_killed_and_gone_on_with_it_is_the_comparison_that_was_never_stopped(
    interruptible, tmp_path
):
    grid = (
        "--networks", "mlp", "--data", "digits", "--methods", "flat-map,calibrated", "--seeds", "0,1",
        "--epochs", 2, "--samples", 2, "--jobs", 2, "--device", "cpu",
    )  # fmt: skip
    whole, part = tmp_path / "whole", tmp_path / "part"
    done = ran("compare", *grid, "--out", whole)
    assert done.returncode == 0, done.stderr
    assert (whole / "comparison.html").is_file()

    for number in (signal.SIGINT, signal.SIGKILL):
        running = subprocess.Popen(
            command("compare", *grid, "--out", part), env=environment(), stderr=subprocess.PIPE, text=True
        )
        try:
            before = len(list(part.glob("runs/*/history.jsonl")))
            while len(list(part.glob("runs/*/history.jsonl"))) <= before and running.poll() is None:
                time.sleep(0.05)
            running.send_signal(number)
            _, complaint = running.communicate(timeout=60)
        finally:
            running.kill()
        if number == signal.SIGINT:
            assert running.returncode == 1
            assert complaint.count("\n") == 1
            assert "go on with: secateur compare --networks mlp" in complaint
    ended = ran("compare", "--out", part)  # runs that the killed one left end with it, or are waited for
    assert ended.returncode == 0, ended.stderr

    for run in sorted((whole / "runs").iterdir()):
        figures = [
            json.loads((place / "runs" / run.name / "metrics.json").read_text()) for place in (whole, part)
        ]
        for each in figures:
            each.pop("seconds")
            each.pop("seconds_per_iteration")
        assert figures[0] == figures[1]
    weights = {path: path.stat().st_mtime_ns for path in part.rglob("model.safetensors")}
    again = ran("compare", "--out", part)
    assert again.returncode == 0
    assert "started" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in part.rglob("model.safetensors")} == weights
