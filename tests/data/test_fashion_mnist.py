"""Where Fashion-MNIST is looked for and in which order; that damage never passes; the real files."""

import gzip
import struct

import pytest
import torch

from secateur import data
from secateur.data import fashion_mnist
from secateur.errors import DataError

NAMES = [file.name for file in fashion_mnist.OFFICIAL.files]
IN_SYSTEM = fashion_mnist.SYSTEM_FOLDER.is_dir()
needs_package = pytest.mark.skipif(not IN_SYSTEM, reason="dataset-fashion-mnist is not installed")


def locate(tmp_path, data_dir=None, **places):
    return fashion_mnist.locate(
        data_dir,
        system_folder=places.get("system", tmp_path / "no system"),
        cache=places.get("cache", tmp_path / "no cache"),
    )


@pytest.mark.parametrize("folder", ["mine", "mine/fashion-mnist", "mine/FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_users_folder_comes_first(tmp_path, write, tiny_fashion, folder, packed):
    remote, bodies = tiny_fashion
    if not packed:
        bodies = {name.removesuffix(".gz"): gzip.decompress(body) for name, body in bodies.items()}
    write(folder, bodies)
    system = write("system", tiny_fashion[1])
    source = locate(tmp_path, tmp_path / "mine", system=system)
    assert (source.kind, source.folder) == ("folder", tmp_path / folder)
    raw = fashion_mnist.read(source, remote=remote)
    assert raw.train_labels.tolist() == [9, 0, 3]
    assert raw.test_labels.tolist() == [1, 2]
    assert raw.train_images.shape == (3, 1, 28, 28)
    assert raw.train_images.flatten()[:3].tolist() == [0, 1, 2]


def test_then_the_system_then_earlier_downloads_then_the_network(tmp_path, write, tiny_fashion):
    bodies = tiny_fashion[1]
    empty = write("empty", {})
    source = locate(tmp_path, empty)
    assert (source.kind, source.url) == ("download", fashion_mnist.OFFICIAL.base_url)
    write("kept/fashion-mnist", bodies)
    assert locate(tmp_path, empty, cache=tmp_path / "kept").kind == "cache"
    system = write("system", bodies)
    assert locate(tmp_path, empty, cache=tmp_path / "kept", system=system).kind == "system package"


def test_environment_names_the_folder(tmp_path, write, tiny_fashion, monkeypatch):
    monkeypatch.setenv("SECATEUR_DATA", str(write("mine", tiny_fashion[1])))
    assert locate(tmp_path).kind == "folder"


def test_some_of_the_files_are_not_enough(tmp_path, write, tiny_fashion):
    bodies = {name: body for name, body in tiny_fashion[1].items() if "t10k-labels" not in name}
    with pytest.raises(DataError, match="all four files of Fashion-MNIST, got none of t10k-labels"):
        locate(tmp_path, write("mine", bodies))


@pytest.mark.parametrize("name", NAMES)
def test_any_altered_file_is_named(tmp_path, write, tiny_fashion, name):
    remote, bodies = tiny_fashion
    content = bytearray(gzip.decompress(bodies[name]))
    content[-1] ^= 1
    folder = write("mine", bodies | {name: gzip.compress(bytes(content))})
    with pytest.raises(DataError, match=f"{name}: expected the original content"):
        fashion_mnist.read(locate(tmp_path, folder), remote=remote)


def test_a_truncated_cached_file_is_named(tmp_path, write, tiny_fashion):
    remote, bodies = tiny_fashion
    name = "train-images-idx3-ubyte.gz"
    write("kept/fashion-mnist", bodies | {name: bodies[name][:100]})
    with pytest.raises(DataError, match=f"{name}: expected a complete file"):
        fashion_mnist.read(locate(tmp_path, cache=tmp_path / "kept"), remote=remote)


def test_download_then_cache(tmp_path, server, tiny_fashion):
    remote, server.bodies = tiny_fashion
    places = {"system_folder": tmp_path / "none", "cache": tmp_path / "kept"}
    source = fashion_mnist.locate(base_url=server.url, **places)
    assert str(source) == f"download from {server.url} to {tmp_path / 'kept' / 'fashion-mnist'}"
    first = fashion_mnist.read(source, remote=remote)
    source = fashion_mnist.locate(base_url=server.url, **places)
    assert source.kind == "cache"
    assert torch.equal(fashion_mnist.read(source, remote=remote).train_images, first.train_images)
    assert server.requests == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_damaged_downloads_are_named(tmp_path, server, tiny_fashion, name):
    remote, server.bodies = tiny_fashion
    server.bodies[name] = server.bodies[name][:-3]
    source = fashion_mnist.locate(
        base_url=server.url, system_folder=tmp_path / "none", cache=tmp_path / "kept"
    )
    with pytest.raises(DataError, match=f"{name}: expected the original file from {server.url}"):
        fashion_mnist.read(source, remote=remote)


@needs_package
def test_the_systems_files_are_the_authors_own(tmp_path, server):
    """Debian packs the authors' files again; given back their gzip headers, they are the official files.

    A gzip header is ten bytes: flags in the fourth (8: a file name follows), time stamp in the next four.
    """
    for file in fashion_mnist.OFFICIAL.files:
        packed = (fashion_mnist.SYSTEM_FOLDER / file.name).read_bytes()
        seconds = 1504176606 if "train" in file.name else 1504176627  # 31 August 2017
        header = packed[:3] + b"\x08" + struct.pack("<I", seconds) + packed[8:10]
        server.bodies[file.name] = header + file.name.removesuffix(".gz").encode() + b"\0" + packed[10:]
    source = fashion_mnist.locate(
        base_url=server.url, system_folder=tmp_path / "none", cache=tmp_path / "kept"
    )
    raw = fashion_mnist.read(source)
    assert raw.train_labels.bincount().tolist() == [6000] * 10
    assert raw.test_labels.bincount().tolist() == [1000] * 10


@needs_package
def test_load_at_both_sizes():
    loaded = data.load("fashion-mnist")
    assert (loaded.image_shape, len(loaded.train), len(loaded.test)) == ((1, 28, 28), 60_000, 10_000)
    assert (loaded.num_classes, loaded.class_names[9]) == (10, "ankle boot")
    assert loaded.train.labels[0] == 9  # the first image is an ankle boot
    framed = data.load("fashion-mnist", image_size=32)
    assert framed.image_shape == (1, 32, 32)
    assert framed.train.images.mean().abs() < 1e-5
