"""Measure how well a run detects out-of-distribution images; the result is kept in its directory.

Score:   entropy of the prediction averaged over posterior samples, in nats; high where it is in doubt.
Measure: AUROC, the probability that an out-of-distribution image scores above a test image; 0.5 is chance.
Images:  out-of-distribution ones get the test set's size, channels and standardisation: enlarged
         by a whole factor as far as they fit, then framed in black; a grey image has the same
         values in every colour channel.
Source:  the score is that of Hendrycks & Gimpel 2017, arXiv:1610.02136, with entropy for confidence.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from secateur import data as data_table
from secateur import networks
from secateur.data import Dataset, load, locate, registered_name
from secateur.data.images import fit_to
from secateur.errors import DataError, SecateurError
from secateur.metrics import auroc, predictive_entropy
from secateur.runs import RunDirectory, read_json, write_whole
from secateur.runs.reading import checked, read_object
from secateur.training.device import resolve_device
from secateur.training.run import load_run

__all__ = ["FILE", "Detection", "ImagePair", "image_pair", "match_format", "measure", "read_measured"]

FILE = "out_of_distribution.json"
"""What the result is called in a run's directory."""

NUM_IMAGES = 2000
NUM_SAMPLES = 32
NUM_BINS = 40
_FORMAT = 1


@dataclass(frozen=True)
class Detection:
    """How well the predictive entropy of one run separates its test images from images of another data set.

    Attributes:
        home: The data set it was trained on.
        foreign: The other data set, which is out of distribution.
        auroc: Probability that an out-of-distribution image has the larger entropy; ties count one half.
        num_inside: Test images judged.
        num_outside: Out-of-distribution images judged.
        num_samples: Posterior draws the prediction averaged over; 1 for a single network.
        temperature: Temperature of the draws.
        edges: Of the histogram's bins, from 0 to ln(classes) nats; one more than bins.
        inside: Test images per bin.
        outside: Out-of-distribution images per bin.
        sha256: Digests of the run's files, by which a later look knows that it is still the same run.
    """

    home: str
    foreign: str
    auroc: float
    num_inside: int
    num_outside: int
    num_samples: int
    temperature: float
    edges: tuple[float, ...]
    inside: tuple[int, ...]
    outside: tuple[int, ...]
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImagePair:
    """Test images and out-of-distribution images, in the format that a network reads."""

    home: str
    foreign: str
    inside: Float[Tensor, "n c h w"]
    outside: Float[Tensor, "m c h w"]


@lru_cache(maxsize=2)
def image_pair(name: str, image_size: int | None, data_dir: Path | None = None) -> ImagePair:
    """Return test images of a data set, and out-of-distribution ones in their format; the last two are kept.

    Args:
        name: As a run's configuration has it.
        image_size: Height and width that the network reads; None for those of the data set.
        data_dir: Where to look for data sets first.

    Raises:
        DataError: If the data set's entry names no other one, or one of the two is not on this machine;
            nothing is downloaded.
    """
    base = registered_name(name)
    other, own_size = data_table.out_of_distribution(base), data_table.image_size(base)
    if other is None or own_size is None:
        named = [each for each in data_table.names() if data_table.out_of_distribution(each)]
        raise DataError(
            f"expected a data set whose entry names out-of-distribution images ({', '.join(named)}), "
            f"got {name!r}"
        )
    home = _local(base, image_size, data_dir)
    if home.name != name:
        raise DataError(f"expected the data set {name!r} of the run on this machine, got {home.name!r}")
    foreign = _local(other, None, data_dir)
    outside = match_format(home, foreign, own_size=own_size)
    return ImagePair(name, foreign.name, home.test.images[:NUM_IMAGES].clone(), outside)


def _local(name: str, image_size: int | None, data_dir: Path | None) -> Dataset:
    if not locate(name, data_dir).is_local:
        raise DataError(
            f"expected {name} on this machine, got no such files; fetch it by `secateur data {name} --fetch`"
        )
    return load(name, data_dir=data_dir, image_size=image_size)


def match_format(home: Dataset, foreign: Dataset, *, own_size: int) -> Float[Tensor, "m c h w"]:
    """Convert images to the size, channels and moments of another data set; at most 2,000, test images first.

    Args:
        home: The data set whose format they get, with its pixel mean and std.
        foreign: Source of the images, at their own size.
        own_size: Height and width of the images of `home` before they were framed for a network.

    Raises:
        DataError: If the images are larger than `own_size`, or have colours where `home` has none.
    """
    images = torch.cat([foreign.test.images, foreign.train.images])[:NUM_IMAGES]
    raw = _bytes(images, foreign)
    height = max(raw.shape[2:])
    if height <= own_size:
        raw = fit_to(raw, height * (own_size // height))
    raw = fit_to(fit_to(raw, own_size), home.image_shape[1])
    channels = home.image_shape[0]
    if raw.shape[1] != channels:
        if raw.shape[1] != 1:
            raise DataError(
                f"expected grey images to look like {home.name} with {channels} channel(s), "
                f"got {foreign.name} with {raw.shape[1]}"
            )
        raw = raw.expand(-1, channels, -1, -1)
    mean, std = _moments(home)
    return ((raw.double() / 255 - mean) / std).float()


def _moments(data: Dataset) -> Float[Tensor, "2 c 1 1"]:
    """Return pixel mean and std per channel."""
    return torch.tensor([data.pixel_mean, data.pixel_std], dtype=torch.float64)[..., None, None]


def _bytes(images: Float[Tensor, "n c h w"], data: Dataset) -> UInt8[Tensor, "n c h w"]:
    """Return standardised images as the bytes they were."""
    mean, std = _moments(data)
    return ((images.double() * std + mean) * 255).round().clamp(0, 255).byte()


def measure(run_dir: Path, *, data_dir: Path | None = None, device: str = "auto") -> Detection:
    """Measure how well a run detects out-of-distribution images, and keep the result in its directory.

    Args:
        run_dir: Directory of a finished run; `read_measured` reads what this writes into it.
        data_dir: Where to look for data sets first.
        device: "auto", "cpu", "cuda", ...

    Raises:
        ArtifactError: If the run is missing, damaged, or of a network that only its user can build.
        DataError: If the images are not to be had on this machine.
    """
    run = load_run(run_dir, device=resolve_device(device))
    pair = image_pair(run.config["data"], networks.image_size(run.config["network"]), data_dir)
    temperature = float(run.config["predictive_temperature"])
    entropies = []
    for images in (pair.inside, pair.outside):
        predicted = run.predict(images, num_samples=NUM_SAMPLES, seed=run.config["seed"])
        entropies.append(predictive_entropy(predicted.double().log()).cpu())
    inside, outside = entropies
    edges = torch.linspace(0, math.log(run.config["num_classes"]), NUM_BINS + 1, dtype=torch.float64)
    single = run.metrics.get("num_samples") == 1
    detection = Detection(
        home=pair.home,
        foreign=pair.foreign,
        auroc=auroc(inside, outside),
        num_inside=len(inside),
        num_outside=len(outside),
        num_samples=1 if single else NUM_SAMPLES,
        temperature=temperature,
        edges=tuple(edges.tolist()),
        inside=_histogram(inside, edges),
        outside=_histogram(outside, edges),
        sha256=_checksums(run_dir),
    )
    text = json.dumps({"format": _FORMAT} | asdict(detection), indent=1)
    write_whole(Path(run_dir) / FILE, (text + "\n").encode())
    return detection


def _histogram(values: Float[Tensor, " n"], edges: Float[Tensor, " b"]) -> tuple[int, ...]:
    """Return counts per bin; rounding may put a value a hair outside, it then counts in the last bin."""
    bins = torch.bucketize(values, edges[1:-1].contiguous(), right=True)
    return tuple(torch.bincount(bins, minlength=len(edges) - 1).tolist())


def _checksums(run_dir: Path) -> dict[str, str]:
    """Return the checksums of a run's files; none where there are none, as in a run that cannot be loaded."""
    path = RunDirectory(Path(run_dir)).checksums
    return read_json(path) if path.exists() else {}


def read_measured(run_dir: Path) -> Detection | None:
    """Read an earlier measurement; None where there is none, or the run has changed since.

    Args:
        run_dir: Directory of a finished run.
    """
    path = Path(run_dir) / FILE
    if not path.is_file():
        return None
    try:
        file, values = read_object(path, checked(Detection))
        detection = Detection(**vars(file))
        if values.get("format") != _FORMAT or detection.sha256 != _checksums(run_dir):
            return None
    except SecateurError:
        return None  # half a file from elsewhere: measure again
    steps = zip(detection.edges, detection.edges[1:], strict=False)
    sound = len(detection.inside) == len(detection.outside) == len(detection.edges) - 1
    return detection if sound and all(low < high for low, high in steps) else None
