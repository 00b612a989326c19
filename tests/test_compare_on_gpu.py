"""The script for a GPU estimates first, then fetches, then compares; the command only notes its calls."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from secateur.grid.cells import parse_names

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare_on_gpu.sh"
pytestmark = pytest.mark.skipif(shutil.which("sh") is None, reason="no POSIX shell here")


@pytest.fixture
def run(tmp_path):
    """Run the script; what it called is in a list of lines."""
    log, command = tmp_path / "log", tmp_path / "secateur"

    def run(*words: str, body: str = "", **variables: str):
        log.write_text("")
        command.write_text(f'#!{shutil.which("sh")}\necho "$*" >> "{log}"\n{body}\n')
        command.chmod(0o755)
        known = {"PATH": os.defpath, "SECATEUR": str(command)}
        done = subprocess.run(
            [shutil.which("sh"), SCRIPT, *words],
            env=known | variables,
            capture_output=True,
            text=True,
            timeout=20,
        )
        return done, log.read_text().splitlines()

    return run


def test_estimates_then_fetches_then_compares(run):
    done, calls = run()
    assert done.returncode == 0, done.stderr
    estimate, *fetches, compare = calls
    assert estimate == f"{compare} --dry-run"
    assert fetches == ["data fashion-mnist --fetch", "data cifar10 --fetch"]
    assert compare == (
        "compare --networks vit,mlp-mixer --data fashion-mnist,cifar10 --seeds 0 --epochs 20 --out runs/gpu "
        "--jobs 4 --device cuda --autocast"
    )


def test_can_only_estimate(run):
    _, calls = run("--dry-run")
    assert len(calls) == 1
    assert calls[0].endswith("--dry-run")


def test_what_is_set_is_handed_on(run):
    given = {"OUT": "there", "EPOCHS": "50", "JOBS": "2", "SEEDS": "0,1", "METHODS": "calibrated,flat-ff"}
    _, calls = run(**given, DEVICE="cuda:1", DATA_DIR="/a b")
    assert calls[-1] == (
        "compare --networks vit,mlp-mixer --data fashion-mnist,cifar10 --seeds 0,1 --epochs 50 --out there "
        "--jobs 2 --device cuda:1 --autocast --methods calibrated,flat-ff --data-dir /a b"
    )
    assert calls[1] == "data fashion-mnist --fetch --data-dir /a b"


def test_an_estimate_that_fails_ends_it(run):
    done, calls = run(body='case "$*" in *--dry-run) echo "Error: device: expected ..." >&2; exit 1;; esac')
    assert done.returncode == 1
    assert len(calls) == 1


def test_wrong_words_are_one_line(run):
    for words in (("--fast",), ("--dry-run", "more")):
        done, calls = run(*words)
        assert done.returncode == 2
        assert not calls
        assert done.stderr.count("\n") == 1
        assert "expected --dry-run or nothing, got" in done.stderr
    done, _ = run(SECATEUR="/nowhere/secateur")
    assert done.returncode == 1
    assert "set SECATEUR" in done.stderr


def test_its_options_are_those_of_the_command():
    from typer.main import get_command

    from secateur.cli import app

    options = {name for each in get_command(app).commands["compare"].params for name in each.opts}
    code = "\n".join(line for line in SCRIPT.read_text().splitlines() if not line.startswith("#"))
    used = set(re.findall(r"(?<= )--[a-z-]+", code))
    assert len(used) >= 9
    assert used - options == {"--fetch"}
    assert parse_names("vit,mlp-mixer", "networks") == ("vit", "mlp-mixer")
    assert parse_names("fashion-mnist,cifar10", "data") == ("fashion-mnist", "cifar10")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_real_command_says_so(run, tmp_path):
    import sys

    body = f'exec "{sys.executable}" -c "from secateur.cli import main; main()" "$@"'
    done, _ = run("--dry-run", body=body, PYTHONPATH=os.environ.get("PYTHONPATH", ""), HOME=str(tmp_path))
    assert done.returncode == 1
    assert "device: expected auto, cpu or a device of this machine, got 'cuda'" in done.stderr
