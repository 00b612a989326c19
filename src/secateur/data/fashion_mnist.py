"""Fashion-MNIST: 70 000 grey images of clothing, 28 x 28, in ten classes.

Source: Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747. Looked for in the user's folder, then in Debian's and
        Ubuntu's package `dataset-fashion-mnist`, then among earlier downloads; else downloaded.
"""

from dataclasses import replace
from pathlib import Path

from secateur.data.files import Remote, RemoteFile, Source, cache_folder, fetch, read_verified, user_folder
from secateur.data.idx import parse_idx
from secateur.data.images import RawImages
from secateur.errors import DataError

__all__ = ["OFFICIAL", "SYSTEM_FOLDER", "locate", "read"]

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")

OFFICIAL = Remote(
    base_url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    files=(
        RemoteFile(
            "train-images-idx3-ubyte.gz",
            "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        RemoteFile(
            "train-labels-idx1-ubyte.gz",
            "md5:25c81989df183df01b3e8a0aad5dffbe",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        RemoteFile(
            "t10k-images-idx3-ubyte.gz",
            "md5:bef4ecab320f06d8554ea6380940ec79",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        RemoteFile(
            "t10k-labels-idx1-ubyte.gz",
            "md5:bb300cfdad3c16e7a12a480ee83cd310",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
)

_CLASS_NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def locate(
    data_dir: Path | None = None,
    *,
    base_url: str | None = None,
    system_folder: Path = SYSTEM_FOLDER,
    cache: Path | None = None,
) -> Source:
    """Find the four files, or the place to download them to.

    Args:
        data_dir: A folder to look into first: the files themselves, packed or not, or a sub-folder
            `fashion-mnist` or `FashionMNIST/raw` with them. None takes $SECATEUR_DATA.
        base_url: A mirror to download from instead of the authors' server.
        system_folder: Where the operating system's package puts the files.
        cache: Where downloads are kept; None takes the operating system's place for caches.

    Raises:
        DataError: If `data_dir` does not exist, or holds some of the four files but not all.
    """
    folder = user_folder(data_dir)
    if folder is not None:
        for candidate in (folder / "fashion-mnist", folder / "FashionMNIST" / "raw", folder):
            if _holds_files(candidate):
                return Source("folder", candidate)
    if _holds_files(system_folder):
        return Source("system package", system_folder)
    kept = cache_folder(cache, "fashion-mnist")
    if all((kept / file.name).is_file() for file in OFFICIAL.files):
        return Source("cache", kept)
    return Source("download", kept, url=base_url or OFFICIAL.base_url)


def read(source: Source, *, progress: bool = False, remote: Remote = OFFICIAL) -> RawImages:
    """Read the images and labels after checking each file's hash.

    Args:
        source: From `locate`.
        progress: Whether a download shows a bar.
        remote: What the server should hold; its address gives way to the source's.

    Raises:
        DataError: If a file is missing, truncated or altered, or cannot be downloaded.
    """
    assert source.folder is not None
    if source.kind == "download":
        fetch(replace(remote, base_url=source.url or remote.base_url), source.folder, progress=progress)
    arrays = []
    for file in remote.files:
        path = _find(source.folder, file.name)
        if path is None:
            raise DataError(f"{source.folder / file.name}: expected Fashion-MNIST's file, got none")
        arrays.append(parse_idx(read_verified(path, file.content_sha256), name=file.name))
    train_images, train_labels, test_images, test_labels = arrays
    return RawImages(
        name="fashion-mnist",
        train_images=train_images.unsqueeze(1),
        train_labels=train_labels.long(),
        test_images=test_images.unsqueeze(1),
        test_labels=test_labels.long(),
        class_names=_CLASS_NAMES,
    )


def _find(folder: Path, name: str) -> Path | None:
    """Return the file as it was published or, next to it, decompressed."""
    candidates = (folder / name, folder / name.removesuffix(".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _holds_files(folder: Path) -> bool:
    found = [file.name for file in OFFICIAL.files if _find(folder, file.name)]
    missing = [file.name for file in OFFICIAL.files if file.name not in found]
    if found and missing:
        raise DataError(
            f"{folder}: expected all four files of Fashion-MNIST, got none of {', '.join(missing)}"
        )
    return not missing
