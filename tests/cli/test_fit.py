"""`secateur fit` hands over what was asked, ends with a report, and fails in ways one can act on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secateur.errors import DivergenceError


@pytest.fixture
def calls(monkeypatch, write_run):
    """Replaces training by writing a finished run; keeps what training was asked for."""
    asked = []

    def fit(network, data, **options):
        asked.append({"network": network, "data": data, **options})
        write_run(options["out"], network=network)

    monkeypatch.setattr("secateur.training.fit", fit)
    return asked


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_fit_ends_with_a_summary_and_a_report(secateur, calls, elsewhere):
    result = secateur("fit", "lenet", "fashion-mnist", "--out", "here")
    assert result.exit_code == 0, result.stderr
    assert "LeNet on Fashion-MNIST" in result.stdout
    assert "Report: here/report.html" in result.stdout
    assert (elsewhere / "here" / "report.html").is_file()


def test_by_default_nothing_is_overridden_and_the_place_is_named_after_the_run(secateur, calls, elsewhere):
    secateur("fit", "lenet", "fashion-mnist", "--seed", 3)
    (asked,) = calls
    assert asked.pop("progress") is not None
    assert asked == {
        "network": "lenet", "data": "fashion-mnist", "method": "calibrated", "epochs": None, "seed": 3,
        "out": Path("runs/lenet-fashion-mnist-calibrated-seed3"), "resume": False, "device": "auto",
        "data_dir": None, "sparsity": None, "num_samples": 100, "learning_rate": None,
        "batch_size": None, "compile": None, "augment": False, "autocast": False, "tensorboard": False,
        "command": "secateur fit lenet fashion-mnist --seed 3",
    }  # fmt: skip


def test_every_option_reaches_the_training(secateur, calls, tmp_path):
    words = (
        "fit", "mlp", "digits", "--method", "ivon", "--epochs", 7, "--seed", 2, "--out", tmp_path / "a b",
        "--device", "cpu", "--data-dir", tmp_path, "--sparsity", 0.9, "--samples", 5, "--learning-rate", 0.01,
        "--batch-size", 32, "--no-compile", "--augment", "--autocast", "--tensorboard", "--resume",
    )  # fmt: skip
    assert secateur(*words).exit_code == 0
    (asked,) = calls
    asked.pop("progress")
    assert asked == {
        "network": "mlp", "data": "digits", "method": "ivon", "epochs": 7, "seed": 2, "out": tmp_path / "a b",
        "device": "cpu", "data_dir": tmp_path, "sparsity": 0.9, "num_samples": 5, "learning_rate": 0.01,
        "batch_size": 32, "compile": False, "augment": True, "autocast": True, "tensorboard": True,
        "resume": True,
        "command": "secateur fit mlp digits --method ivon --epochs 7 --seed 2 "
        f"--out '{tmp_path}/a b' --device cpu --data-dir {tmp_path} --sparsity 0.9 "
        "--samples 5 --learning-rate 0.01 --batch-size 32 --no-compile "
        "--augment --autocast --tensorboard",
    }  # fmt: skip


def test_ctrl_c_says_how_to_go_on(secateur, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.training.fit", interrupted)
    result = secateur("fit", "lenet", "digits", "--epochs", 9)
    assert result.exit_code == 1
    kept = "runs/lenet-digits-calibrated-seed0"
    assert result.stderr == (
        f"Error: interrupted; finished epochs are kept in {kept}, go on with: "
        f"secateur fit lenet digits --epochs 9 --out {kept} --resume\n"
    )
    again = secateur("fit", "lenet", "digits", "--out", "x", "--resume")
    assert again.stderr.endswith("secateur fit lenet digits --out x --resume\n")


def test_a_failed_training_leaves_no_report(secateur, monkeypatch, elsewhere):
    def diverge(*_, **__):
        raise DivergenceError("step 12: expected a finite loss, got nan")

    monkeypatch.setattr("secateur.training.fit", diverge)
    result = secateur("fit", "lenet", "digits")
    assert result.exit_code == 1
    assert result.stderr == "Error: step 12: expected a finite loss, got nan\n"
    assert not list(elsewhere.rglob("report.html"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lenett", "digits"), "did you mean lenet?"),
        (("lenet", "digit"), "did you mean digits?"),
        (("lenet", "digits", "--method", "calibrate"), "did you mean calibrated?"),
    ],
)
def test_a_wrong_name_gets_the_list_and_the_nearest(secateur, elsewhere, words, said):
    result = secateur("fit", *words)
    assert result.exit_code == 2
    assert "expected one of the" in result.stderr
    assert said in result.stderr
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("words", [("--epochs", 0), ("--seed", -1), ("--sparsity", 2), ("--samples", "many")])
def test_a_number_out_of_range_is_wrong_usage(secateur, words):
    assert secateur("fit", "lenet", "digits", *words).exit_code == 2


def test_from_digits_to_a_report_and_back(secateur, tmp_path):
    """The whole way, with real training, if only a little of it."""
    out = tmp_path / "run"
    words = (
        "fit",
        "mlp",
        "digits",
        "--epochs",
        1,
        "--samples",
        3,
        "--device",
        "cpu",
        "--no-compile",
        "--out",
        out,
    )
    result = secateur(*words)
    assert result.exit_code == 0, result.stderr
    assert "epoch 1/1" in result.stdout
    assert "MLP on digits" in result.stdout
    metrics = json.loads((out / "metrics.json").read_text())
    page = (out / "report.html").read_text()
    assert f"{metrics['accuracy']:.4f}" in page
    assert f"{metrics['num_weights']:,}" in page
    assert "first layer" in page

    used = secateur(*words)
    assert used.exit_code == 1
    assert "--resume" in used.stderr
    assert (out / "report.html").read_text() == page

    judged = secateur("evaluate", out, "--samples", 3, "--device", "cpu")
    assert judged.exit_code == 0, judged.stderr
    assert "on the test set" in judged.stdout
    assert f"{metrics['mean_network']['accuracy']:.4f}" in judged.stdout


def test_a_real_ctrl_c_ends_in_one_line_and_a_run_to_go_on_with(tmp_path):
    command = Path(sys.executable).with_name("secateur")
    words = ("fit", "mlp", "digits", "--epochs", "5000", "--device", "cpu", "--no-compile", "--out", "run")
    running = subprocess.Popen(
        [command, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (tmp_path / "run" / "history.jsonl").exists() and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, complaint = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 1
    assert complaint.count("\n") == 1
    assert complaint.endswith(
        "go on with: secateur fit mlp digits --epochs 5000 --out run --resume --device cpu --no-compile\n"
    )
    assert not (tmp_path / "run" / "metrics.json").exists()
