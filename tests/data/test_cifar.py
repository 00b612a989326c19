"""The official layout, whole and damaged, as archive and unpacked."""

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace

import pytest
import torch

from secateur.data import cifar
from secateur.data.files import Remote, RemoteFile
from secateur.errors import DataError

LAYOUTS = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}


def record(layout: cifar.Layout, number: int) -> bytes:
    """Pixel (row, column) of record i is i + row in red, i + column in green, i in blue."""
    labels = bytes([19, number % layout.num_classes][-layout.num_label_bytes :])
    red = bytes((number + i // 32) % 256 for i in range(1024))
    green = bytes((number + i % 32) % 256 for i in range(1024))
    return labels + red + green + bytes([number]) * 1024


@pytest.fixture(params=LAYOUTS)
def small(request):
    """A layout of three records per training file and two for testing, its files, and their archive."""
    layout = LAYOUTS[request.param]
    files = {
        file: b"".join(record(layout, 3 * index + i) for i in range(3))
        for index, file in enumerate(layout.train_files)
    }
    files[layout.test_file] = record(layout, 8) + record(layout, 9)
    files[layout.names_file] = "\n".join(f"class {k}" for k in range(layout.num_classes)).encode() + b"\n\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(f"{layout.folder}/{name}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    packed = buffer.getvalue()
    known = "md5:" + hashlib.md5(packed, usedforsecurity=False).hexdigest()
    remote = Remote(
        base_url="http://127.0.0.1:9/", files=(RemoteFile(layout.archive.name, known),), retries=0
    )
    return replace(layout, remote=remote, num_train_each=3, num_test=2), files, packed


def check(raw, layout):
    assert raw.train_images.shape == (3 * len(layout.train_files), 3, 32, 32)
    assert raw.train_labels.tolist() == [i % layout.num_classes for i in range(3 * len(layout.train_files))]
    assert raw.test_labels.tolist() == [8, 9]
    red, green, blue = raw.test_images[1]
    assert torch.equal(red[:, 5], 9 + torch.arange(32, dtype=torch.uint8))
    assert torch.equal(green[7], 9 + torch.arange(32, dtype=torch.uint8))
    assert (blue == 9).all()
    assert raw.class_names[-1] == f"class {layout.num_classes - 1}"


@pytest.mark.parametrize("place", ["{folder}", "{name}/{folder}", ".", "{name}"])
def test_unpacked_files_are_read_and_marked(small, tmp_path, write, place):
    layout, files, _ = small
    write("mine/" + place.format(folder=layout.folder, name=layout.name), files)
    source = cifar.locate(layout, tmp_path / "mine", cache=tmp_path / "none")
    assert source.kind == "folder"
    raw = cifar.read(layout, source)
    check(raw, layout)
    assert raw.name == f"{layout.name} (local files)"


def test_an_archive_is_official_and_goes_first(small, tmp_path, write):
    layout, files, packed = small
    folder = write("mine", {layout.archive.name: packed})
    write(f"mine/{layout.folder}", files)
    raw = cifar.read(layout, cifar.locate(layout, folder, cache=tmp_path / "none"))
    check(raw, layout)
    assert raw.name == layout.name


def test_download_then_cache(small, tmp_path, server):
    layout, _, packed = small
    server.bodies = {layout.archive.name: packed}
    source = cifar.locate(layout, base_url=server.url, cache=tmp_path)
    assert (source.kind, source.url) == ("download", server.url)
    check(cifar.read(layout, source), layout)
    source = cifar.locate(layout, base_url=server.url, cache=tmp_path)
    assert source.kind == "cache"
    raw = cifar.read(layout, source)
    check(raw, layout)
    assert raw.name == layout.name
    assert server.requests == [layout.archive.name]


def test_a_damaged_archive_is_named(small, tmp_path, write):
    layout, _, packed = small
    folder = write("mine", {layout.archive.name: packed[:-5]})
    with pytest.raises(DataError, match=f"{layout.archive.name}: expected the original archive"):
        cifar.read(layout, cifar.locate(layout, folder))


def test_a_damaged_download_is_named(small, tmp_path, server):
    layout, files, _ = small
    server.bodies = {layout.archive.name: gzip.compress(files[layout.test_file])}
    with pytest.raises(DataError, match=f"{layout.archive.name}: expected the original file from"):
        cifar.read(layout, cifar.locate(layout, base_url=server.url, cache=tmp_path))


@pytest.mark.parametrize(
    "damage", ["cut inside a record", "cut between records", "label", "missing", "names"]
)
def test_damaged_files_are_named(small, tmp_path, write, damage):
    layout, files, _ = small
    last = layout.train_files[-1]
    size = layout.num_label_bytes + 3072
    says = {
        "cut inside a record": f"{last}: expected 3 records of {size} bytes, .* got {3 * size - 7}",
        "cut between records": f"{last}: expected 3 records .* got {2 * size}",
        "label": f"{last}: expected labels in 0 ... {layout.num_classes - 1}, got 200 in record 1",
        "missing": f"{layout.names_file}: expected {layout.name}'s file, got none",
        "names": f"{layout.names_file}: expected {layout.num_classes} class names, got 2",
    }[damage]
    if damage == "missing":
        del files[layout.names_file]
    elif damage == "names":
        files[layout.names_file] = b"cat\ndog\n"
    elif damage == "label":
        changed = bytearray(files[last])
        changed[size + layout.num_label_bytes - 1] = 200
        files[last] = bytes(changed)
    else:
        files[last] = files[last][: -7 if "inside" in damage else -size]
    with pytest.raises(DataError, match=says):
        cifar.read(layout, cifar.locate(layout, write("mine", files)))


def test_nothing_there_means_download(tmp_path):
    source = cifar.locate(cifar.CIFAR100, tmp_path, cache=tmp_path)
    assert str(source) == f"download from https://www.cs.toronto.edu/~kriz/ to {tmp_path / 'cifar100'}"
