"""Read `bench.json` of a run: sizes and latencies of each form of its network."""

import math
from dataclasses import dataclass
from pathlib import Path

from secateur.runs.fields import Fields, parse, read_text

__all__ = ["Bench", "BenchVariant", "Kernel", "Timing", "read_bench"]


@dataclass(frozen=True)
class Timing:
    """Time of one call at one batch size: median and quartiles, in seconds."""

    batch: int
    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class BenchVariant:
    """Sizes and latencies of one form of the network; nan where a number is unknown."""

    name: str
    file_bytes: float
    num_parameters: float
    num_macs: float
    peak_memory: float
    accuracy: float
    largest_difference: float
    timings: tuple[Timing, ...]


@dataclass(frozen=True)
class Kernel:
    """The kernel chosen for one layer at one batch size; times in seconds."""

    batch: int
    layer: str
    sparsity: float
    dense_seconds: float
    sparse_seconds: float
    kernel: str


@dataclass(frozen=True)
class Bench:
    """Measurements of all forms of one network; the first form is the dense one."""

    variants: tuple[BenchVariant, ...]
    kernels: tuple[Kernel, ...]
    remarks: tuple[str, ...]
    machine: str
    num_threads: int
    torch: str
    dense_run: str | None
    entropy_bound: float

    def is_other_network(self, variant: BenchVariant) -> bool:
        """Return whether a form belongs to the separate dense run, which has other weights."""
        return self.dense_run is not None and variant.name.startswith("dense")

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes, in the order of each variant's timings."""
        return tuple(timing.batch for timing in self.variants[0].timings)


def read_bench(path: Path) -> Bench | None:
    """Read `bench.json`; return None where there is no such file.

    Args:
        path: `bench.json` of a run.

    Raises:
        ArtifactError: If it is damaged.
    """
    if not path.exists():
        return None
    fields = parse(path, read_text(path))
    variants = tuple(map(_variant, fields.rows("rows")))
    machine = fields.optional("machine")
    if not variants or machine is None:
        raise fields.damaged("expected rows and a machine, got none")
    if len({tuple(timing.batch for timing in variant.timings) for variant in variants}) > 1:
        raise fields.damaged("expected the same batch sizes in every row, got different ones")
    dense = machine.values.get("dense_run")
    return Bench(
        variants=variants,
        kernels=tuple(kernel for row in fields.rows("kernels") for kernel in _kernels(row)),
        remarks=tuple(map(str, fields.items("remarks"))),
        machine=machine.text("machine"),
        num_threads=machine.count("num_threads"),
        torch=machine.text("torch"),
        dense_run=None if dense is None else str(dense),
        entropy_bound=fields.number("entropy_bound"),
    )


def _variant(fields: Fields) -> BenchVariant:
    return BenchVariant(
        name=fields.text("variant"),
        file_bytes=fields.number("file_bytes"),
        num_parameters=fields.number("num_parameters"),
        num_macs=fields.number("num_macs"),
        peak_memory=fields.number("peak_memory"),
        accuracy=fields.number("accuracy", math.nan),
        largest_difference=fields.number("largest_difference"),
        timings=tuple(
            Timing(row.count("batch"), row.number("median"), row.number("lower"), row.number("upper"))
            for row in fields.rows("latencies")
        ),
    )


def _kernels(fields: Fields) -> list[Kernel]:
    batch = fields.count("batch")
    return [
        Kernel(
            batch=batch,
            layer=row.text("layer"),
            sparsity=row.number("sparsity"),
            dense_seconds=row.number("dense_seconds"),
            sparse_seconds=row.number("sparse_seconds"),
            kernel=row.text("kernel"),
        )
        for row in fields.rows("layers")
    ]
