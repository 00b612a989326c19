"""One comparison at a time: refused while one goes on, free again however it ended."""

import os
import subprocess
import sys

import pytest

from secateur.errors import ArtifactError
from secateur.grid.lock import locked


def dead_process():
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    return ended.pid


def test_a_second_one_is_refused_and_told_who_holds_it(tmp_path):
    with locked(tmp_path / "new"):
        with (
            pytest.raises(ArtifactError, match=rf"going on \(process {os.getpid()}\).*another --out"),
            locked(tmp_path / "new"),
        ):
            pass
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "new"):
        pass


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    with locked(tmp_path):
        pass


HOLD = """
import sys
from pathlib import Path
from secateur.grid.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_the_file_of_a_dead_process_is_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ArtifactError, match=rf"going on \(process {holder.pid}\)"), locked(tmp_path):
            pass
        holder.kill()
    left = tmp_path / "comparison.lock"
    assert left.read_text() == f"{holder.pid}\n"  # a killed process takes nothing away
    with locked(tmp_path):
        assert left.read_text() == f"{os.getpid()}\n"


def test_a_run_left_going_by_a_killed_comparison_still_holds_it(tmp_path):
    with locked(tmp_path) as descriptor:
        run = subprocess.Popen(
            [sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(descriptor,)
        )
    killed = dead_process()
    (tmp_path / "comparison.lock").write_text(f"{killed}\n")
    try:
        with (
            pytest.raises(ArtifactError, match=f"runs that process {killed}, which has ended, left going"),
            locked(tmp_path),
        ):
            pass
    finally:
        run.communicate(b"\n", timeout=30)
    with locked(tmp_path):
        pass


def test_a_place_that_cannot_be_a_directory_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="expected a writable directory"), locked(tmp_path / "file"):
        pass
