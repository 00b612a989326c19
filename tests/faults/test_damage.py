"""Damaged run directories: no traceback, no wrong weights, nothing overwritten; other runs are shown."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.errors import SecateurError
from secateur.reports import comparison, run_page
from secateur.reports.record import read
from secateur.reports.tables import collect
from secateur.training import load_run

FILES = ("config.json", "metrics.json", "history.jsonl", "model.safetensors", "posterior.safetensors")
VALUES = (
    None, True, -1, 0.5, 10**30, 1e308, "", "\x1b[31m\u202e", "<script>", "../../x", [], {}, [[]], {"a": 0},
)  # fmt: skip
short_and_long = pytest.mark.parametrize("count", [16, pytest.param(1000, marks=pytest.mark.slow)])


def cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


def garbage(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(chance.choice((1, 100, 10_000))))


def another(path: Path, chance: random.Random) -> None:
    path.write_bytes(
        (path.parent / chance.choice([name for name in FILES if name != path.name])).read_bytes()
    )


def pipe(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def nested(path: Path, chance: random.Random) -> None:
    path.write_bytes(b'{"a":' + b"[" * 100_000)


def huge(path: Path, chance: random.Random) -> None:
    with path.open("wb") as file:
        file.truncate(2**25)  # more than any JSON of a run


def change(path: Path, chance: random.Random) -> None:
    """Set one value of a JSON file, wherever it is, to something else; or flip a bit of another file."""
    if path.suffix == ".safetensors":
        return flip(path, chance)
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = chance.randrange(len(lines))
    value = json.loads(lines[number])
    places = list(leaves(value))
    holder, key = chance.choice(places)
    if chance.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = chance.choice(VALUES)
    lines[number] = json.dumps(value)
    path.write_text("\n".join(lines))
    return None


def leaves(value: Any) -> Any:
    """Yield every place of a JSON value: its holder and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from leaves(item)


DAMAGES: tuple[Callable[[Path, random.Random], object], ...] = (
    cut, flip, remove, garbage, another, pipe, endless, folder, nested, huge, change, change, change,
)  # fmt: skip


@pytest.fixture
def whole(finished_run, tmp_path):
    """A copy of a finished run."""
    shutil.copytree(finished_run, tmp_path / "whole", ignore=shutil.ignore_patterns(".lock"))
    return tmp_path / "whole"


def ordinary(directory: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file, which tell whether one was written."""
    return {path.name: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in directory.iterdir()}


def outcome(action: Callable[[], Any]) -> tuple[Any, str | None]:
    """Return a value, or what the library says of its absence; no other error is expected."""
    try:
        return action(), None
    except SecateurError as error:
        return None, str(error)


@short_and_long
def test_a_damaged_run_is_refused_or_right(whole, tmp_path, count):
    weights = load_run(whole).model.state_dict()
    refused = shown = 0
    for number in range(count):
        chance = random.Random(number)
        run = tmp_path / "damaged"
        shutil.copytree(whole, run)
        name, damage = chance.choice(FILES), DAMAGES[number % len(DAMAGES)]
        damage(run / name, chance)
        before, told = ordinary(run), f"{number}: {damage.__name__} {name}"
        loaded, refusal = outcome(lambda run=run: load_run(run).model.state_dict())
        refused += refusal is not None
        if loaded is not None:
            assert all(torch.equal(tensor, loaded[key]) for key, tensor in weights.items()), told
            assert damage in {flip, change}, told  # of white space
        record, unreadable = outcome(lambda run=run: read(run))
        assert "\n" not in f"{refusal}{unreadable}", told
        assert ordinary(run) == before, told
        if record is not None and shown < count // 8:  # a page takes a second
            shown += 1
            page = run_page.write(run)
            assert page.read_text().startswith("<!doctype html>"), told
        shutil.rmtree(run)
    assert refused > 0.9 * count


def test_damaged_runs_among_good_ones_are_named(whole, tmp_path):
    for number, damage in enumerate(dict.fromkeys(DAMAGES)):
        run = tmp_path / "grid" / "runs" / f"{damage.__name__}"
        shutil.copytree(whole, run)
        damage(run / ("metrics.json" if damage is not change else "config.json"), random.Random(number))
    shutil.copytree(whole, tmp_path / "grid" / "runs" / "good")
    table = collect(tmp_path / "grid")
    named = set(table.missing)
    assert named >= {"cut", "remove", "garbage", "another", "pipe", "endless", "folder", "nested", "huge"}
    found = {name for group in table.groups for name in group.runs.index}
    assert "good" in found
    assert named | found == {path.name for path in (tmp_path / "grid" / "runs").iterdir()}


@pytest.mark.slow
def test_the_page_of_the_good_runs_is_made(whole, tmp_path):
    for name, damage in (("good", None), ("no-file", remove), ("no-end", endless), ("cut", cut)):
        shutil.copytree(whole, tmp_path / "grid" / "runs" / name)
        if damage is not None:
            damage(tmp_path / "grid" / "runs" / name / "metrics.json", random.Random(0))
    page = comparison.write(tmp_path / "grid", device="cpu").read_text()
    assert all(name in page for name in ("no-file", "no-end", "cut"))
