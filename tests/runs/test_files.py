"""Files are there whole or not at all, under names that no planted link can catch."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from secateur.errors import ArtifactError
from secateur.runs import write_whole
from secateur.runs.files import (
    is_unfinished,
    open_appending,
    open_exclusive,
    read_bytes,
    read_json,
    replacing,
)


def test_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for content in (b"old", b"new" * 100_000, b""):
        write_whole(path, content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"")
    with replacing(tmp_path / "b") as draft:
        draft.write_bytes(b"")
    (tmp_path / "c").touch()
    assert len({stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "abc"}) == 1


@pytest.mark.parametrize("name", ["report.html.partial", ".report.html.partial", "report.html"])
def test_nothing_is_written_through_a_planted_link(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(precious)
    write_whole(tmp_path / "run" / "report.html", b"page")
    with replacing(tmp_path / "run" / "report.html") as draft:
        draft.write_bytes(b"page")
    assert precious.read_bytes() == b"mine"
    assert (tmp_path / "run" / "report.html").read_bytes() == b"page"
    assert not (tmp_path / "run" / "report.html").is_symlink()


def test_even_a_guessed_name_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    (tmp_path / f".a.{'0' * 16}.partial").symlink_to(precious)
    with pytest.raises(ArtifactError, match="File exists"):
        write_whole(tmp_path / "a", b"content")
    assert precious.read_bytes() == b"mine"
    assert not (tmp_path / "a").exists()


def test_names_differ_and_files_and_directory_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, synced = [], []
    plain_open, plain_sync = os.open, os.fsync

    def opened(path, flags, mode=0o777, **options):
        if flags & os.O_CREAT:
            names.append((Path(path), flags))
        return plain_open(path, flags, mode, **options)

    def sync(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        plain_sync(descriptor)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", sync)
    for _ in range(2):
        write_whole(tmp_path / "a", b"content")
    (first, flags), (second, _) = names
    assert first != second
    assert first.parent == tmp_path
    assert flags & os.O_EXCL
    assert flags & os.O_NOFOLLOW
    assert is_unfinished(first.name)
    assert synced == [False, True] * 2


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_after_a_failure_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    write_whole(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), fail)
    expected = ArtifactError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_whole(tmp_path / "a", b"new")
    with pytest.raises(expected), replacing(tmp_path / "a") as draft:
        draft.write_bytes(b"new")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_directory_that_is_missing_or_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "a", tmp_path / "file" / "a", tmp_path):
        with pytest.raises(ArtifactError, match="expected to write it") as caught:
            write_whole(path, b"")
        assert "\n" not in str(caught.value)
    with pytest.raises(ArtifactError, match="expected to write it"), replacing(tmp_path / "file" / "a"):
        pass


def test_logs_are_ordinary_files(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name in ("link", "pipe", "/dev/null"):
        with pytest.raises(OSError):  # noqa: PT011 (each has its own)
            open_appending(tmp_path / name)
    os.close(reader)
    assert (tmp_path / "precious").read_bytes() == b"mine"
    for _ in range(2):
        with open_appending(tmp_path / "a.log") as log:
            log.write(b"line\n")
    assert (tmp_path / "a.log").read_bytes() == b"line\n" * 2


def test_exclusive_files_are_new(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        open_exclusive(tmp_path / "link")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "folder", "link"])
def test_only_ordinary_files_are_read_and_nobody_waits(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match="expected a readable file"):
        read_bytes(tmp_path / name)


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", largest=5) == b"12345"
    with pytest.raises(ArtifactError, match="expected at most 4 bytes, got more"):
        read_bytes(tmp_path / "a", largest=4)


def test_json_is_an_object_or_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "a.json") == {"a": 1}
    for content in (b"[1]", b"{", b"", b"\xff", b"[" * 100_000):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"a\.json: expected a"):
            read_json(tmp_path / "a.json")
    with pytest.raises(ArtifactError, match=r"expected none\.json in .*, got no such file"):
        read_json(tmp_path / "none.json")


def test_a_draft_that_a_killed_process_left_goes_and_one_in_use_stays(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    (tmp_path / ".network.onnx.draft.abandoned").mkdir()
    (tmp_path / ".network.onnx.draft.abandoned" / "network.onnx").write_bytes(b"half")
    with replacing(path) as first:
        assert not (tmp_path / ".network.onnx.draft.abandoned").exists()
        with replacing(path) as second:
            second.write_bytes(b"second")
        first.write_bytes(b"first")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
