"""A folder of images: one subfolder for each class, perhaps below `train` and `test`."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from secateur.data.examples import Examples, OwnExamples
from secateur.errors import DataError
from secateur.runs.files import file_checksum, open_ordinary

__all__ = ["folder_checksum", "read_image_folder"]

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MOST_PIXELS = 2**26  # of one image


def read_image_folder(folder: Path, *, image_size: int | None = None) -> OwnExamples:
    """Read all images of a folder; grey ones have one channel, unless there are coloured ones among them.

    Args:
        folder: Has a subfolder of images for each class, or `train` and `test` that do.
        image_size: Height and width to resize to; None takes images of one size as they are.

    Raises:
        DataError: If a file is no image, sizes differ, or there are fewer than two classes.
    """
    parts = {name: folder / name for name in ("train", "test") if (folder / name).is_dir()}
    classes = _classes(parts.get("train", folder))
    if len(classes) < 2:
        raise DataError(
            f"{folder}: expected a subfolder of images for each of two classes at least, got "
            f"{', '.join(classes) or 'none'}"
        )
    if "test" in parts and (unseen := [name for name in _classes(parts["test"]) if name not in classes]):
        raise DataError(f"{folder}: expected test images of the classes in train, got {unseen[0]!r} as well")
    train = _read(parts.get("train", folder), classes, image_size)
    test = _read(parts["test"], classes, image_size) if "test" in parts else None
    colours = max(len(image[0]) for part in (train, test) if part for image in part)
    shapes = {image[0].shape[1:] for part in (train, test) if part for image in part}
    if len(shapes) > 1:
        sizes = sorted(f"{height} x {width}" for height, width in shapes)
        raise DataError(
            f"{folder}: expected images of one size, got {sizes[0]} and {sizes[1]}; give --image-size 32, say"
        )
    return OwnExamples(
        _stacked(train, colours), _stacked(test, colours) if test else None, class_names=tuple(classes)
    )


def folder_checksum(folder: Path) -> str:
    """Return the SHA-256 of names and contents of all images in a folder.

    Args:
        folder: The folder.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            total.update(str(path.relative_to(folder)).encode(errors="surrogateescape"))
            total.update(file_checksum(path).encode())
    return total.hexdigest()


def _classes(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def _read(folder: Path, classes: list[str], size: int | None) -> list[tuple[np.ndarray, int]]:
    found = []
    for number, name in enumerate(classes):
        paths = [path for path in sorted((folder / name).glob("*")) if path.suffix.lower() in SUFFIXES]
        found += [(_image(path, size), number) for path in paths]
    if not found:
        raise DataError(f"{folder}: expected images ({', '.join(SUFFIXES)}) in its subfolders, got none")
    return found


def _image(path: Path, size: int | None) -> np.ndarray:
    """Return one image, shape (channels, height, width), in bytes."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open_ordinary(path) as file, Image.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise DataError(
                    f"{path}: expected at most {MOST_PIXELS} pixels, got {opened.width} x {opened.height}"
                )
            image: Any = opened.convert("L" if opened.mode in {"1", "L"} else "RGB")
            if size is not None and image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, UnidentifiedImageError) as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise DataError(f"{path}: expected an image that can be read, got: {said}; remove it") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _stacked(images: list[tuple[np.ndarray, int]], channels: int) -> Examples:
    """Return images as numbers between 0 (black) and 1 (white); grey ones get the channels of the others."""
    whole = [np.repeat(image, channels // len(image), 0) for image, _ in images]
    return Examples(
        np.stack(whole).astype(np.float32) / 255, np.array([number for _, number in images], dtype=np.int64)
    )
