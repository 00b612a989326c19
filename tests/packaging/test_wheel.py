"""The wheel holds all that the library needs, and works far from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from support.pages import ROOT


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh environment with the wheel; other packages are those of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    install = ["install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "packages-of-the-tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv"


@pytest.mark.slow  # builds a wheel and starts four processes
def test_the_wheel_works_away_from_the_checkout(environment: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "scripts" / "smoke.py", tmp_path)
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(environment / "bin" / "python"), "smoke.py"]
    done = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, said = done.stdout.splitlines()
    assert f"{environment}" in said
    assert said.endswith(": works")
    assert [path.name for path in tmp_path.iterdir()] == ["smoke.py"]
