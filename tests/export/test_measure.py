"""Bytes and operations against hand counts; latencies and differences are there and ordered."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from secateur.compaction import compact
from secateur.errors import InvalidArgumentError
from secateur.export import bench, onnx
from secateur.export.measure import num_macs, peak_memory, state_bytes
from secateur.export.sparse_kernels import CsrLinear


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5, bias=False))


def test_multiply_adds_are_those_counted_by_hand() -> None:
    assert num_macs(model(), (torch.zeros(2, 1, 6, 6),)) == 2 * (4 * 4 * 4 * 9 + 64 * 5)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_sparse_kernels_count_what_they_keep(rows: int, bias: bool) -> None:
    layer = nn.Linear(10, 6, bias=bias)
    prune.l1_unstructured(layer, "weight", 45)
    assert num_macs(CsrLinear(layer), (torch.zeros(rows, 10),)) == 15 * rows


def test_memory_is_what_is_alive_at_once() -> None:
    network = nn.Sequential(nn.Linear(100, 1000), nn.ReLU(), nn.Linear(1000, 10)).requires_grad_(False)
    # The hidden layer before and after its activation; the output when the first of them is gone.
    expected = state_bytes(network) + 4 * 50 * 2 * 1000
    assert expected <= peak_memory(network, (torch.zeros(50, 100),)) <= 1.1 * expected


def test_variants_side_by_side(tmp_path: Path) -> None:
    masked, x = model(), torch.randn(3, 1, 6, 6)
    prune.random_structured(masked[0], "weight", amount=2, dim=0)
    small = compact(masked, x).train()
    onnx(small, tmp_path / "net.onnx", x)
    rows = bench(
        {"masked": masked, "compact": small, "onnx": tmp_path / "net.onnx"}, x, batches=(1, 4), seconds=0.05
    )
    assert [row.variant for row in rows] == ["masked", "compact", "onnx"]
    assert rows[1].num_parameters == 2 * 10 + 32 * 5 + 5  # the constants made a bias
    assert rows[0].num_parameters == 4 * 10 + 64 * 5
    assert rows[0].num_nonzero == 2 * 9 + 4 + 64 * 5
    assert rows[0].state_bytes == 4 * (2 * 36 + 4 + 64 * 5)  # the mask is held beside the weight
    assert rows[1].num_macs == 2 * 16 * 9 + 32 * 5 < rows[0].num_macs
    assert rows[1].file_bytes is not None
    assert rows[2].state_bytes == (tmp_path / "net.onnx").stat().st_size
    assert rows[0].largest_difference == 0
    assert all(row.largest_difference < 1e-5 for row in rows)
    for row in rows:
        assert [latency.batch for latency in row.latencies] == [1, 4]
        assert all(0 < latency.lower <= latency.median <= latency.upper for latency in row.latencies)
    assert small.training


def test_there_must_be_something_to_measure() -> None:
    with pytest.raises(InvalidArgumentError, match="expected variants"):
        bench({}, torch.zeros(1, 4))
