"""Commands that are ended from outside leave no temporary files or folders."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import secateur
from support.files import files

# The command line, which says so on stderr when it makes a temporary folder, and then takes its time.
PROGRAM = """
import sys, tempfile, time
made = tempfile.TemporaryDirectory.__enter__
def enter(self):
    name = made(self)
    print("made", name, file=sys.stderr, flush=True)
    time.sleep(60)
    return name
tempfile.TemporaryDirectory.__enter__ = enter
from secateur.cli import main
main()
"""


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    with torch.random.fork_rng(devices=[]):
        secateur.fit("mlp", "digits", method="flat-map", epochs=1, device="cpu", compile=False, out=run)
    return run


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    "words",
    [
        ("compact",),
        pytest.param(("export", "--to", "onnx"), marks=pytest.mark.slow),
        pytest.param(("bench", "--no-accuracy"), marks=pytest.mark.slow),
    ],
)
def test_sigterm_leaves_no_temporary_folder(
    finished_run: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    run, folder = finished_run, tmp_path / "temporary"
    folder.mkdir()
    before = files(run)
    command, *options = words
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, command, str(run), *options],
        env=os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        told = next((line for line in process.stderr if line.startswith("made ")), "")
        assert Path(told.removeprefix("made ").strip()).is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 1
    assert list(folder.iterdir()) == []
    assert files(run) == before
