"""Commands killed at random moments and begun again: nothing is lost, different, stray or hung."""

import json
import signal
import time

import pytest

FILES = {
    ".lock", "checksums.json", "config.json", "history.jsonl", "metrics.json", "model.safetensors",
    "posterior.safetensors", "checkpoint.safetensors", "report.html",
}  # fmt: skip
TIMES = {"seconds", "seconds_per_iteration", "sha256"}
GRID = ("--networks", "mlp", "--data", "digits", "--methods", "flat-map,ivon", "--seeds", "0,1", "--jobs", 2)
short_and_long = pytest.mark.parametrize("kills", [6, pytest.param(300, marks=pytest.mark.slow)])


def repeatable(out):
    """All of a run that the same seed must give again."""
    without_times = lambda row: {key: value for key, value in row.items() if key not in TIMES}  # noqa: E731
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return (
        (out / "model.safetensors").read_bytes(),
        (out / "posterior.safetensors").read_bytes(),
        [without_times(row) for row in history],
        without_times(json.loads((out / "metrics.json").read_text())),
    )


@short_and_long
def test_a_fit(driver, finished_run, fit_words, tmp_path, kills):
    started = time.perf_counter()
    assert driver.run("fit", *fit_words, "--out", tmp_path / "timed") == 0
    longest = time.perf_counter() - started
    words = ("fit", *fit_words, "--out", tmp_path / "run", "--resume")
    assert driver.kill_often(*words, kills=kills, seed=kills, longest=0.7 * longest) > kills // 4
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert repeatable(tmp_path / "run") == repeatable(finished_run)


@short_and_long
def test_a_comparison(driver, tmp_path, kills):
    """The runs are miniatures; what is killed is the comparison, with all that waits for its runs."""
    words = ("compare", *GRID, "--epochs", 8, "--out", tmp_path)
    assert driver.kill_often(*words, kills=kills // 2, seed=kills, longest=0.8) > kills // 8
    runs = sorted((tmp_path / "runs").iterdir())
    assert len(runs) == 4
    for run in runs:
        rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == list(range(1, 9))
        assert sorted(path.name for path in run.iterdir()) == [
            ".lock", "config.json", "history.jsonl", "metrics.json"
        ]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {
        "runs",
        "logs",
        "comparison.json",
        "comparison.lock",
    }


@short_and_long
def test_files_that_are_made_of_a_run(driver, finished_run, tmp_path, kills):
    """What was killed in the middle of writing leaves the old file or none, and the next one tidies up."""
    before = repeatable(finished_run)
    path = tmp_path / "compact.safetensors"
    for words in (
        ("compact", finished_run, "--out", path),
        ("report", finished_run),
        (
            "prune",
            finished_run,
            "--sparsity",
            0.5,
            "--rounds",
            1,
            "--samples",
            2,
            "--out",
            tmp_path / "pruned",
        ),
    ):
        for attempt in range(kills // 4):
            code = driver.run(*words, kill_after=0.15 * (attempt + 1))
            assert code in {0, 1, -signal.SIGKILL}
            if code == 1:  # of a prune that was done
                assert (tmp_path / "pruned" / "metrics.json").exists()
                assert "expected a new or empty directory" in driver.log.read_text()
        if not (words[0] == "prune" and (tmp_path / "pruned" / "metrics.json").exists()):
            assert driver.run(*words) == 0, driver.log.read_text()[-2000:]
    assert {entry.name for entry in tmp_path.iterdir()} <= {"compact.safetensors", "pruned"}
    assert {entry.name for entry in (tmp_path / "pruned").iterdir()} == FILES - {"checkpoint.safetensors"}
    assert repeatable(finished_run) == before


def test_sigterm_ends_a_command_in_order_and_leaves_nothing(driver, finished_run, tmp_path):
    """As Ctrl-C does: no traceback, and the temporary folder goes."""
    codes = set()
    for attempt in range(4):
        words = ("compact", finished_run, "--out", tmp_path / "compact.safetensors")
        codes.add(driver.run(*words, kill_after=0.2 * (attempt + 1), number=signal.SIGTERM))
        assert {entry.name for entry in tmp_path.iterdir()} <= {"compact.safetensors"}
    assert codes <= {0, 1, 70}  # the last before the command line itself had begun
    assert "Traceback" not in driver.log.read_text()
