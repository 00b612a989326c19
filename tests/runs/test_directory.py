"""One writer at a time in a run's directory; files of tensors that are not the run's own are refused."""

import json
import math
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from secateur.errors import ArtifactError
from secateur.runs import RunDirectory, read_json, write_json, write_whole
from secateur.runs.directory import LOCK, only_writer

HOLDER = """
import sys, time
from pathlib import Path
from secateur.runs import RunDirectory, read_json, write_json, write_whole

with RunDirectory(Path(sys.argv[1])).claimed(resume=True):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Hold a run in another process."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "held"
        yield process
        process.kill()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_second_process_is_refused_until_the_first_ends(
    holder: subprocess.Popen, tmp_path: Path, end: signal.Signals
) -> None:
    directory = RunDirectory(tmp_path / "run")
    (tmp_path / "run" / ".history.jsonl.0123456789abcdef.partial").touch()  # being written by the other
    for _ in range(2):
        with (
            pytest.raises(ArtifactError, match=rf"{tmp_path}/run: expected no other process") as caught,
            directory.claimed(resume=True),
        ):
            pass
        assert "\n" not in str(caught.value)
    assert (tmp_path / "run" / ".history.jsonl.0123456789abcdef.partial").exists()
    holder.send_signal(end)
    holder.wait()
    with directory.claimed(resume=True):
        assert os.listdir(tmp_path / "run") == [LOCK]  # noqa: PTH208


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with pytest.raises(KeyboardInterrupt), directory.claimed(resume=False):
        raise KeyboardInterrupt
    with directory.claimed(resume=False):
        write_json(directory.config, {})
    refused = pytest.raises(ArtifactError, match="expected no other process")
    with directory.claimed(resume=True), refused, only_writer(tmp_path, what="process"):
        pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    for target in ("precious", "nowhere"):
        (tmp_path / "run" / LOCK).unlink()
        (tmp_path / "run" / LOCK).symlink_to(tmp_path / target)
        with (
            pytest.raises(ArtifactError, match="expected a file to lock"),
            RunDirectory(tmp_path / "run").claimed(resume=True),
        ):
            pass
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_name_that_is_not_utf_8_is_refused_at_the_start(tmp_path: Path) -> None:
    name = tmp_path / os.fsdecode(b"run-\xff")
    with pytest.raises(ArtifactError, match=r"expected a writable directory, got: .*utf-8") as caught:
        RunDirectory(name).check(resume=True)
    str(caught.value).encode()
    assert not list(tmp_path.iterdir())


def test_directories_that_are_no_runs_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(ArtifactError, match="expected a"), RunDirectory(tmp_path).claimed(resume=resume):
            pass
    with (
        pytest.raises(ArtifactError, match="writable directory"),
        RunDirectory(tmp_path / "thesis.tex" / "run").claimed(resume=False),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_unfinished_files_go_when_the_run_goes_on(tmp_path: Path) -> None:
    for name in (
        ".config.json.0123456789abcdef.partial",
        "config.json.partial",
    ):
        (tmp_path / name).write_bytes(b"{")
    (tmp_path / ".network.onnx.draft.x").mkdir()
    (tmp_path / ".network.onnx.draft.x" / "network.onnx").write_bytes(b"half")
    with RunDirectory(tmp_path).claimed(resume=False):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.fixture
def written(tmp_path: Path) -> RunDirectory:
    """Every file of a finished run, of the least content."""
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.finish(
        config={"network": "mlp"},
        metrics={"accuracy": 0.9, "nothing": math.nan},
        history=[{"epoch": 1}],
        model={"weight": torch.ones(2, 3)},
        save_posterior=lambda path: write_whole(path, b"posterior"),
        calibration=torch.zeros(2),
    )
    return directory


FILES = [
    "config.json",
    "history.jsonl",
    "metrics.json",
    "model.safetensors",
    "posterior.safetensors",
    "calibration.safetensors",
]


def test_a_finished_run_is_as_it_was_written_and_all_its_files_have_one_mode(written: RunDirectory) -> None:
    written.verify()
    assert sorted(path.name for path in written.path.iterdir()) == sorted([*FILES, "checksums.json"])
    assert sorted(read_json(written.metrics)["sha256"]) == sorted(name for name in FILES if "tensors" in name)
    assert len({stat.S_IMODE(path.stat().st_mode) for path in written.path.iterdir()}) == 1


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_noticed(written: RunDirectory, name: str) -> None:
    path = written.path / name
    content = path.read_bytes()
    for old, new in ((b'"F32"', b'"I32"'), (b"0.9", b"0.8"), (b"mlp", b"map"), (b"1", b"2"), (b"r", b"R")):
        if old in content:
            path.write_bytes(content.replace(old, new, 1))
            break
    with pytest.raises(ArtifactError, match=rf"{name}: .*an altered one"):
        written.verify()


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_there_and_has_its_checksum(written: RunDirectory, name: str) -> None:
    sums = read_json(written.checksums)
    write_json(written.checksums, {key: value for key, value in sums.items() if key != name})
    with pytest.raises(ArtifactError, match=f"expected the SHA-256 of {name}, got none"):
        written.verify()
    write_json(written.checksums, sums)
    (written.path / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name}: expected the file of a finished run"):
        written.verify()


@pytest.mark.parametrize("content", [b"[]", b"5", b"{", b"{}"])
def test_without_checksums_nothing_is_believed(written: RunDirectory, content: bytes) -> None:
    written.checksums.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"checksums.json: expected"):
        written.verify()
    written.checksums.unlink()
    with pytest.raises(ArtifactError, match=r"expected checksums.json in"):
        written.verify()


@pytest.mark.parametrize("name", ["/dev/zero", "../outside", "pipe", "", ".", "folder/x", "none"])
def test_only_files_of_the_run_are_looked_at(written: RunDirectory, name: str) -> None:
    os.mkfifo(written.path / "pipe")
    write_json(written.checksums, read_json(written.checksums) | {name: "0" * 64})
    written.verify()  # whatever else is named is not opened, and nobody waits for it


def test_a_file_of_the_run_that_became_a_pipe_is_refused(written: RunDirectory) -> None:
    written.model.unlink()
    os.mkfifo(written.model)
    with pytest.raises(ArtifactError, match="not an ordinary file"):
        written.verify()


def test_a_prune_that_was_killed_between_its_files_begins_again_and_nothing_else_does(
    written: RunDirectory,
) -> None:
    with pytest.raises(ArtifactError, match="expected a new or empty directory"):
        written.check(resume=False)  # a run of fit
    written.metrics.unlink()
    with pytest.raises(ArtifactError, match="expected a new or empty directory"):
        written.check(resume=False)  # an unfinished one
    config = json.loads(written.config.read_text())
    written.config.write_text(json.dumps(config | {"pruned": {"from": "elsewhere"}}))
    written.check(resume=False)
    written.checkpoint.write_bytes(b"")
    with pytest.raises(ArtifactError, match="expected a new or empty directory"):
        written.check(resume=False)


def test_a_run_that_is_written_again_is_unfinished_until_the_end(written: RunDirectory) -> None:
    def full(path: Path) -> None:
        raise ArtifactError("no space")

    with pytest.raises(ArtifactError, match="no space"):
        written.finish(config={}, metrics={}, history=[], model={}, save_posterior=full, calibration=None)
    assert not written.metrics.exists()
