"""`make run` installs the library alone, and ends in order on Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.pages import ROOT


def test_it_installs_no_extra(tmp_path: Path) -> None:
    said = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "run", f"VENV={tmp_path}/venv"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    install = next(line for line in said.splitlines() if "pip install" in line)
    assert install.endswith("-c constraints.txt -e .")
    assert said.index("Installing Secateur") < said.index("pip install") < said.index("first_run.py")


@pytest.mark.slow  # starts a training
def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "first_run.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = []
    while "iterations" not in (line := process.stdout.readline()):  # the first line of the training
        said.append(line)
        assert process.poll() is None, "".join(said)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the script and to what it started
    said.append(process.communicate(timeout=300)[0])
    text = "".join(said)
    assert process.returncode == 1
    assert "Traceback" not in text
    assert "go on with: secateur fit" in text
    assert "Ctrl-C keeps finished epochs" in text
