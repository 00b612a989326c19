"""Times of LeNet and ResNet-20 in different engines, whole and with half of their channels, as ratios.

    OMP_NUM_THREADS=1 python benchmarks/engines.py [--network lenet-relu] [--seconds 4]

Variants take turns call by call in one process, so that a busy machine slows all of them alike; printed are
ratios of medians to the whole network in eager PyTorch, and between the two networks within each engine.
Weights are random: times do not depend on them.
"""

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from secateur import networks
from secateur.compaction import CompactionWarning, compact
from secateur.export import onnx
from secateur.export.onnx_graph import onnx_session
from secateur.export.timing import alternating_times

SHAPES = {"lenet-relu": (1, 32, 32), "resnet20": (3, 32, 32)}


def half(network: nn.Module, images: Tensor, multiple_of: int) -> nn.Module:
    """Return the network without half of the channels that no residual stream holds."""
    streams = isinstance(network, networks.ResNet)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and (not streams or name.endswith(".conv1")):
            prune.random_structured(layer, "weight", amount=0.5, dim=0)
    return compact(network, images[:2], multiple_of=multiple_of).eval()


def engines(network: nn.Module, images: Tensor, folder: Path) -> dict[str, Callable[[Tensor], Any]]:
    """Return the network in every engine; the compiled one is compiled for this batch size."""
    folded = compact(network, images[:2], fold_batch_norm=True, as_graph=True).eval()
    path = onnx(network, folder / f"{id(network)}.onnx", images[:2]).path
    session = onnx_session(path)
    with torch.no_grad():
        program = torch.export.export(folded, (images,))
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / f"{id(network)}-{len(images)}.pt2")
        )
    return {
        "eager": network,
        "onnxruntime": lambda x: session((x,)),
        "torch.compile": torch.compile(folded, dynamic=False, options={"freezing": True}),
        "AOTInductor": torch._inductor.aoti_load_package(package),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", choices=SHAPES, action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=4.0, help="per batch size, over all variants")
    parser.add_argument("--multiple-of", type=int, default=1, help="round channels up to a multiple of this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", CompactionWarning)
    for name in arguments.network or SHAPES:
        for batch in arguments.batch or (1, 32):
            images = torch.randn(batch, *SHAPES[name], generator=torch.Generator().manual_seed(0))
            measure(name, images, arguments.multiple_of, arguments.seconds)


def measure(name: str, images: Tensor, multiple_of: int, seconds: float) -> None:
    """Measure one network at one batch size, and print the ratios."""
    build = partial(networks.build, name, image_shape=tuple(images.shape[1:]), num_classes=10, seed=0)
    whole = build().eval()
    small = half(build().eval(), images, multiple_of)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        variants = {
            f"{size}, {engine}": call
            for size, network in (("whole", whole), ("half", small))
            for engine, call in engines(network, images, Path(folder)).items()
        }
        times = alternating_times(list(variants.values()), (images,), seconds=seconds, most_rounds=400)
    medians = {key: statistics.median(own) for key, own in zip(variants, times, strict=True)}
    print(f"{name}, batch {len(images)}: eager {1e3 * medians['whole, eager']:.3f} ms")
    for engine in (key.removeprefix("whole, ") for key in variants if key.startswith("whole, ")):
        first, second = medians[f"whole, {engine}"], medians[f"half, {engine}"]
        eager = medians["whole, eager"]
        print(
            f"  {engine:<14} whole {eager / first:5.2f}x, half {eager / second:5.2f}x of eager; "
            f"half against whole in this engine {first / second:5.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
