"""From the installed command to a report and back, as a user types it: one process per command."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

COMMAND = Path(sys.executable).with_name("secateur")
FIT = ("fit", "mlp", "digits", "--device", "cpu", "--no-compile", "--samples", "3")


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SECATEUR")}
    return kept | {"COLUMNS": "100", "TERM": "dumb"}


def secateur(*words, cwd):
    return subprocess.run(
        [COMMAND, *map(str, words)], capture_output=True, text=True, cwd=cwd, env=environment(), check=False
    )


def error_of(done) -> str:
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(r"Error: [^\n]*expected[^\n]*got[^\n]*\n", done.stderr), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def fitted(place):
    """What the first command left and said."""
    done = secateur(*FIT, "--epochs", 1, "--sparsity", 0.9, "--method", "bmr-spike-and-slab", cwd=place)
    assert done.returncode == 0, done.stderr
    return place / "runs" / "mlp-digits-bmr-spike-and-slab-seed0", done


def test_a_fit_says_and_leaves_what_it_should(fitted):
    out, done = fitted
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert re.match(r"epoch 1/1  loss \d.* removed 90\.0%", lines[1])
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    files = {"config.json", "metrics.json", "history.jsonl", "model.safetensors", "posterior.safetensors"}
    assert {path.name for path in out.iterdir()} == files | {
        "report.html", "checkpoint.safetensors", "checksums.json", ".lock"
    }  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["num_weights"] - metrics["num_kept"] == round(0.9 * metrics["num_weights"])
    zeros = sum(int((tensor == 0).sum()) for tensor in load_file(out / "model.safetensors").values())
    assert zeros == metrics["num_weights"] - metrics["num_kept"]
    command = json.loads((out / "config.json").read_text())["command"]
    assert command.startswith("secateur fit mlp digits ")


def test_evaluate_finds_the_same_scores(fitted, place):
    out, _ = fitted
    metrics = json.loads((out / "metrics.json").read_text())
    done = secateur("evaluate", out, "--samples", 3, "--device", "cpu", cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    for key in ("accuracy", "negative_log_likelihood"):
        assert f"{metrics[key]:.4f}" in done.stdout


def test_the_report_is_written_again(fitted, place):
    out, _ = fitted
    (out / "report.html").unlink()
    done = secateur("report", out, cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()) == out / "report.html"
    assert "<!doctype html>" in (out / "report.html").read_text().lower()


def test_a_used_directory_is_left_alone(fitted, place):
    out, _ = fitted
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "--resume" in error_of(secateur(*FIT, "--out", out, cwd=place))
    other = error_of(secateur(*FIT, "--out", out, "--seed", 1, "--resume", cwd=place))
    assert "--resume" in other
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.slow
def test_a_damaged_run_is_refused(fitted, place, tmp_path):
    out, _ = fitted
    for path in out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (tmp_path / "posterior.safetensors").read_bytes()
    (tmp_path / "posterior.safetensors").write_bytes(whole[:-100])
    assert "posterior.safetensors" in error_of(secateur("evaluate", tmp_path, "--device", "cpu", cwd=place))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("fit", "lenett", "digits"), 2, "did you mean lenet?"),
        (("fit", "lenet", "digit"), 2, "did you mean digits?"),
        (("fit", "lenet", "digits", "--method", "ivom"), 2, "did you mean ivon?"),
        (("fit", "lenet", "digits", "--epochs", "many"), 2, "--epochs"),
        (("prnue",), 2, "prnue"),
        (("fit", "lenet", "digits", "--device", "abacus"), 1, "abacus"),
        (("fit", "lenet", "digits", "--batch-size", "5000"), 1, "got 5000"),
        (("fit", "lenet", "digits", "--out", "file"), 1, "expected a writable directory"),
        (("fit", "lenet", "digits", "--out", "file/deeper"), 1, "expected a writable directory"),
        (("fit", "lenet", "digits", "--out", "full", "--resume"), 1, "other files"),
        (("fit", "lenet", "digits", "--learning-rate", "-1"), 1, "learning_rate"),
        (("fit", "lenet", "digits", "--sparsity", "0.9999"), 1, "everything that may go"),
        (("evaluate", "nowhere"), 1, "finished run"),
        (("report", "nowhere"), 1, "nowhere"),
    ],
)
def test_exit_codes_and_messages(tmp_path, words, code, said):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    done = secateur(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        error_of(done)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "thesis.tex"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fit", "evaluate", "report", "data"])
def test_help_has_an_example(place, command):
    done = secateur(command, "--help", cwd=place)
    assert done.returncode == 0
    assert f"Example: secateur {command}" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed_it_ends_as_if_never_interrupted(tmp_path, end):
    words = (*FIT, "--epochs", "3", "--sparsity", "0.8", "--method", "bmr-spike-and-slab")
    whole = secateur(*words, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    with subprocess.Popen(
        [COMMAND, *words, "--out", "part"],
        cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        while not (tmp_path / "part" / "checkpoint.safetensors").exists() and running.poll() is None:
            time.sleep(0.02)
        running.send_signal(end)
        _, complaint = running.communicate(timeout=60)
    assert running.returncode == (1 if end == signal.SIGINT else -signal.SIGKILL)
    if end == signal.SIGINT:
        assert complaint.count("\n") == 1
        assert "--resume" in complaint
    assert not (tmp_path / "part" / "metrics.json").exists()
    again = secateur(*words, "--out", "part", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resumed after epoch" in again.stdout
    for name in ("model.safetensors", "posterior.safetensors"):
        parts = [load_file(tmp_path / run / name) for run in ("whole", "part")]
        assert all(torch.equal(parts[0][key], parts[1][key]) for key in parts[0])


@pytest.mark.slow
def test_by_default_small_data_end_in_a_useful_network(tmp_path):
    """`secateur fit lenet digits`: what somebody without a data set tries first."""
    done = secateur("fit", "lenet", "digits", "--device", "cpu", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["accuracy"] >= 0.93
    assert metrics["negative_log_likelihood"] <= 0.25
    assert 0.7 <= metrics["sparsity"] < 1
