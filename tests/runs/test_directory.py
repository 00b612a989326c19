"""One writer at a time in a run's directory; files of tensors that are not the run's own are refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from secateur.errors import ArtifactError
from secateur.runs import RunDirectory
from secateur.runs.lock import LOCK, only_writer

HOLDER = """
import sys, time
from pathlib import Path
from secateur.runs import RunDirectory

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
        directory.write_json(directory.config, {})
    refused = pytest.raises(ArtifactError, match="expected no other process")
    with directory.claimed(resume=True), refused, only_writer(tmp_path):
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
    ):  # of now, of earlier versions
        (tmp_path / name).write_bytes(b"{")
    with RunDirectory(tmp_path).claimed(resume=False):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.fixture
def written(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path)
    directory.write_model({"weight": torch.ones(2, 3)})
    save_file({"mean/weight": torch.ones(2, 3)}, directory.posterior)
    return directory


def test_a_changed_type_is_noticed(written: RunDirectory) -> None:
    digests = written.digests()
    written.verify(digests)
    content = written.model.read_bytes()
    assert content.count(b'"F32"') == 1
    written.model.write_bytes(content.replace(b'"F32"', b'"I32"'))
    with pytest.raises(ArtifactError, match=r"model.safetensors: .* an altered one"):
        written.verify(digests)


@pytest.mark.parametrize("name", ["model.safetensors", "posterior.safetensors"])
def test_every_file_of_tensors_needs_its_digest(written: RunDirectory, name: str) -> None:
    digests = written.digests()
    del digests[name]
    with pytest.raises(ArtifactError, match=f"expected the SHA-256 of {name}, got none"):
        written.verify(digests)
    for none in (None, [], "digest", 5):
        with pytest.raises(ArtifactError, match=r"expected the SHA-256 of model.safetensors"):
            written.verify(none)
    with pytest.raises(ArtifactError, match="an altered one"):
        written.verify({**written.digests(), name: None})


@pytest.mark.parametrize("name", ["/dev/zero", "../outside", "pipe", "", ".", "folder/x", "none"])
def test_digests_name_files_of_the_run(written: RunDirectory, name: str) -> None:
    (written.path.parent / "outside").touch()
    os.mkfifo(written.path / "pipe")
    with pytest.raises(ArtifactError, match="expected the file of a finished run"):
        written.verify(written.digests() | {name: "0" * 64})


def test_json_of_a_run_is_an_ordinary_file(tmp_path: Path) -> None:
    from secateur.runs import read_json

    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ArtifactError, match="expected a readable JSON file"):
        read_json(tmp_path / "config.json")
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "a.json") == {"a": 1}
