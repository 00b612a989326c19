"""CIFAR-10 and CIFAR-100: 60 000 colour images of things and animals, 32 x 32, in ten or a hundred classes.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images", Technical Report, Toronto;
        the binary version. A record is one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100, of
        which the fine counts), then 1024 bytes each of red, green and blue, row by row.

The published checksum is that of the archive, so only an archive can be told to be the original. Unpacked
files are taken where their structure is right, since re-coded copies of these images exist; their results are
marked: the data set's name becomes "cifar10 (local files)".
"""

import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from secateur.data.files import Remote, RemoteFile, Source, cache_folder, fetch, user_folder
from secateur.data.images import RawImages
from secateur.errors import DataError

__all__ = ["CIFAR10", "CIFAR100", "Layout", "locate", "read"]

_NUM_PIXEL_BYTES = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class Layout:
    """File layout of CIFAR-10 or CIFAR-100.

    Attributes:
        name: Name of the data set.
        num_classes: Number of classes.
        remote: The server and its one archive.
        folder: Folder inside the archive.
        train_files: Files of training records, in order.
        num_train_each: Records in each of them.
        test_file: File of test records.
        num_test: Records in it.
        names_file: Text file of class names, one a line.
        num_label_bytes: Label bytes before the pixels; the last one counts.
    """

    name: str
    num_classes: int
    remote: Remote
    folder: str
    train_files: tuple[str, ...]
    num_train_each: int
    test_file: str
    num_test: int = 10_000
    names_file: str
    num_label_bytes: int

    @property
    def archive(self) -> RemoteFile:
        """The archive on the server."""
        return self.remote.files[0]


CIFAR10 = Layout(
    name="cifar10",
    num_classes=10,
    remote=Remote(
        base_url="https://www.cs.toronto.edu/~kriz/",
        files=(RemoteFile("cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"),),
    ),
    folder="cifar-10-batches-bin",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    num_train_each=10_000,
    test_file="test_batch.bin",
    names_file="batches.meta.txt",
    num_label_bytes=1,
)

CIFAR100 = Layout(
    name="cifar100",
    num_classes=100,
    remote=Remote(
        base_url="https://www.cs.toronto.edu/~kriz/",
        files=(RemoteFile("cifar-100-binary.tar.gz", "md5:03b5dce01913d631647c71ecec9e9cb8"),),
    ),
    folder="cifar-100-binary",
    train_files=("train.bin",),
    num_train_each=50_000,
    test_file="test.bin",
    names_file="fine_label_names.txt",
    num_label_bytes=2,
)


def locate(
    layout: Layout, data_dir: Path | None = None, *, base_url: str | None = None, cache: Path | None = None
) -> Source:
    """Find the archive or its unpacked files, or the place to download it to.

    Args:
        layout: `CIFAR10` or `CIFAR100`.
        data_dir: A folder to look into first, then into its sub-folder of the data set's name: for the
            archive, then for the unpacked files. None takes $SECATEUR_DATA.
        base_url: A mirror to download from instead of the authors' server.
        cache: Where downloads are kept; None takes the operating system's place for caches.

    Raises:
        DataError: If `data_dir` does not exist.
    """
    folder = user_folder(data_dir)
    if folder is not None:
        places = (folder, folder / layout.name)
        for place in places:
            if (place / layout.archive.name).is_file():
                return Source("folder", place)
        for place in (*(place / layout.folder for place in places), *places):
            if (place / layout.test_file).is_file() and (place / layout.train_files[0]).is_file():
                return Source("folder", place)
    kept = cache_folder(cache, layout.name)
    if (kept / layout.archive.name).is_file():
        return Source("cache", kept)
    return Source("download", kept, url=base_url or layout.remote.base_url)


def read(layout: Layout, source: Source, *, progress: bool = False) -> RawImages:
    """Read the images and labels.

    Args:
        layout: `CIFAR10` or `CIFAR100`.
        source: From `locate`.
        progress: Whether a download shows a bar.

    Raises:
        DataError: If the archive is not the original, a file is missing or has another structure, a label
            is out of range, or the download fails.
    """
    assert source.folder is not None
    if source.kind == "download":
        remote = replace(layout.remote, base_url=source.url or layout.remote.base_url)
        fetch(remote, source.folder, progress=progress)
    archive = source.folder / layout.archive.name
    if archive.is_file():
        _check_archive(archive, layout.archive.known_hash)
        with tarfile.open(archive, "r:gz") as packed:
            contents = {Path(m.name).name: _extract(packed, m) for m in packed if m.isfile()}
        return _parse(layout, contents.get, name=layout.name, where=archive)
    folder = source.folder

    def from_folder(file: str) -> bytes | None:
        return (folder / file).read_bytes() if (folder / file).is_file() else None

    return _parse(layout, from_folder, name=f"{layout.name} (local files)", where=folder)


def _check_archive(path: Path, known_hash: str) -> None:
    import pooch

    algorithm, expected = known_hash.split(":")
    got = pooch.file_hash(str(path), alg=algorithm)
    if got != expected:
        raise DataError(
            f"{path}: expected the original archive ({known_hash}), got {algorithm}:{got}; the file is"
            " truncated or altered, delete it and try again"
        )


def _extract(packed: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = packed.extractfile(member)
    assert content is not None  # it is a file
    return content.read()


def _parse(layout: Layout, content_of: Callable[[str], bytes | None], *, name: str, where: Path) -> RawImages:
    """Return the images in files that `content_of` gives by name, None for one that is not there."""

    def content(file: str) -> bytes:
        found = content_of(file)
        if found is None:
            raise DataError(f"{where / file}: expected {layout.name}'s file, got none")
        return found

    names = tuple(line.strip() for line in content(layout.names_file).decode().splitlines() if line.strip())
    if len(names) != layout.num_classes:
        raise DataError(
            f"{where / layout.names_file}: expected {layout.num_classes} class names, got {len(names)}"
        )
    train = [
        _records(layout, content(file), layout.num_train_each, where / file) for file in layout.train_files
    ]
    test_images, test_labels = _records(
        layout, content(layout.test_file), layout.num_test, where / layout.test_file
    )
    return RawImages(
        name=name,
        train_images=torch.cat([images for images, _ in train]),
        train_labels=torch.cat([labels for _, labels in train]),
        test_images=test_images,
        test_labels=test_labels,
        class_names=names,
    )


def _records(
    layout: Layout, content: bytes, num_records: int, path: Path
) -> tuple[UInt8[Tensor, "n 3 32 32"], Int64[Tensor, " n"]]:
    size = layout.num_label_bytes + _NUM_PIXEL_BYTES
    if len(content) != num_records * size:
        raise DataError(
            f"{path}: expected {num_records} records of {size} bytes, {num_records * size} in all,"
            f" got {len(content)} bytes"
        )
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(num_records, size)
    labels = records[:, layout.num_label_bytes - 1].long()
    if int(labels.max()) >= layout.num_classes:
        raise DataError(
            f"{path}: expected labels in 0 ... {layout.num_classes - 1}, got {int(labels.max())}"
            f" in record {int(labels.argmax())}"
        )
    return records[:, layout.num_label_bytes :].reshape(num_records, 3, 32, 32), labels
