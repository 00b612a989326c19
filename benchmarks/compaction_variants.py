"""Bytes, operations, milliseconds of one network: dense, masked, compact, with sparse kernels, onnxruntime.

    python benchmarks/compaction_variants.py RUN          a directory that `secateur fit --out RUN` wrote
    python benchmarks/compaction_variants.py --network mlp --sparsity 0.97
                                                          random masks: what the kernels alone are worth

Dense is the same architecture without masks. All variants run in one process, call by call in turn.
"""

import argparse
import platform
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from secateur import networks
from secateur.compaction import compact, plain_copy
from secateur.export import BenchRow, artifact, bench, measure_kernels, onnx, sparse
from secateur.training import load_run


def masked_network(arguments: argparse.Namespace) -> tuple[nn.Module, nn.Module, Tensor]:
    """Return the masked network, the same with all its weights, and an image."""
    if arguments.run is not None:
        run = load_run(arguments.run)
        settings = {key: run.config[key] for key in ("image_shape", "num_classes")}
        settings["image_shape"] = tuple(settings["image_shape"])
        dense = networks.build(run.config["network"], **settings, seed=0)
        return run.model, dense, torch.randn(1, *settings["image_shape"])
    size = networks.image_size(arguments.network) or 28
    shape = (1, size, size)
    model, dense = (
        networks.build(arguments.network, image_shape=shape, num_classes=10, seed=0) for _ in range(2)
    )
    generator = torch.Generator().manual_seed(0)
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    for layer in layers[:-1]:
        mask = torch.rand(layer.weight.shape, generator=generator) > arguments.sparsity
        prune.custom_from_mask(layer, "weight", mask)
    return model, dense, torch.randn(1, *shape)


def print_rows(rows: tuple[BenchRow, ...]) -> None:
    first = rows[0]
    batches = [latency.batch for latency in first.latencies]
    print(f"{'variant':<16}{'state B':>11}{'file B':>11}{'parameters':>12}{'MACs':>11}{'peak B':>12}", end="")
    print("".join(f"{f'batch {batch}, ms (quartiles)':>32}" for batch in batches), f"{'difference':>11}")
    for row in rows:
        cells = [row.state_bytes, row.file_bytes, row.num_parameters, row.num_macs, row.peak_memory]
        print(f"{row.variant:<16}", end="")
        print(
            "".join(
                f"{'-' if c is None else c:>{w}}" for c, w in zip(cells, (11, 11, 12, 11, 12), strict=True)
            ),
            end="",
        )
        for own, reference in zip(row.latencies, first.latencies, strict=True):
            times = f"{own.median * 1e3:.3f} ({own.lower * 1e3:.3f}-{own.upper * 1e3:.3f})"
            print(f"{times:>25}{reference.median / own.median:>6.1f}x", end="")
        print(f"{row.largest_difference:>12.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--network", default="mlp")
    parser.add_argument("--sparsity", type=float, default=0.97)
    parser.add_argument("--seconds", type=float, default=5.0, help="per batch size, over all variants")
    arguments = parser.parse_args()
    model, dense, image = masked_network(arguments)
    small = compact(model, image)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    for batch in (1, 256):
        print(f"kernels at batch {batch}")
        for row in measure_kernels(small, image.expand(batch, *image.shape[1:])):
            other = "-" if row.sparse_seconds is None else f"{row.sparse_seconds * 1e6:.0f}"
            print(f"  {row.layer:<24}{row.shape!s:<20}{row.sparsity:>6.1%}", end="")
            print(f"{row.dense_seconds * 1e6:>8.0f} us dense{other:>8} us sparse  -> {row.kernel}")
    with tempfile.TemporaryDirectory() as folder:
        variants: dict[str, nn.Module | Path] = {
            "masked": model,
            "dense": dense,
            "compact": small,
            "sparse for 1": sparse(small, image),
            "sparse for 256": sparse(small, image.expand(256, *image.shape[1:])),
            "onnxruntime": onnx(small, Path(folder) / "net.onnx", image).path,
        }
        print_rows(bench(variants, image, seconds=arguments.seconds))
    bound = artifact.entropy_bound(small)
    kept = sum(int(torch.count_nonzero(p)) for p in plain_copy(model).parameters())
    print(f"kept {kept} of {sum(p.numel() for p in dense.parameters())}; entropy bound {bound:.0f} bytes")


if __name__ == "__main__":
    main()
