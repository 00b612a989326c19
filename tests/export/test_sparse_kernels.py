"""Sparse kernels compute what dense ones do, and are taken only where they are faster."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from secateur.export import measure_kernels, sparse, sparse_kernels
from secateur.export.sparse_kernels import CsrLinear, SemiStructuredLinear


def scattered(layer: nn.Module, sparsity: float, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight *= torch.rand(layer.weight.shape, generator=generator) > sparsity
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 20), (4, 20), (2, 3, 20)])
@pytest.mark.parametrize("sparsity", [0.8, 1.0])
def test_a_linear_layer(shape: tuple[int, ...], bias: bool, sparsity: float) -> None:
    layer = scattered(nn.Linear(20, 7, bias=bias, dtype=torch.float64), sparsity)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(CsrLinear(layer)(x), layer(x).detach(), rtol=1e-12, atol=1e-12)


def test_a_kernel_moves_copies_and_loads() -> None:
    layer, x = scattered(nn.Linear(20, 7), 0.8), torch.randn(4, 20)
    kernel = CsrLinear(layer)
    kernel(x)
    for copied in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert torch.equal(copied(x), kernel(x))
    assert kernel.double()(x.double()).dtype == torch.float64
    other = CsrLinear(scattered(nn.Linear(20, 7), 0.8))
    other(x)
    other.load_state_dict(kernel.state_dict())
    torch.testing.assert_close(other(x), layer(x).detach())


def test_what_is_faster_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4))
    for index, sparsity in ((0, 0.9), (2, 0.9), (4, 0.1)):
        prune.custom_from_mask(model[index], "weight", torch.rand(model[index].weight.shape) > sparsity)
    # The first sparse kernel is slow, the second fast; the last layer is too dense to be timed.
    times = iter([[1.0, 0.97], [1.0, 0.5], [1.0]])
    monkeypatch.setattr(sparse_kernels, "alternating_medians", lambda layers, x, seconds: next(times))
    x = torch.randn(3, 20)
    rows = measure_kernels(model, x)
    assert [(row.layer, row.kernel) for row in rows] == [("0", "dense"), ("2", "csr"), ("4", "dense")]
    assert [row.sparse_seconds for row in rows] == [0.97, 0.5, None]
    small = sparse(model, x, kernels=rows)
    assert [type(layer) for layer in list(small)[::2]] == [nn.Linear, CsrLinear, nn.Linear]
    torch.testing.assert_close(small(x), model(x))
    assert isinstance(model[2], nn.Linear)


def test_times_are_measured() -> None:
    model = nn.Sequential(scattered(nn.Linear(400, 300), 0.99), nn.ReLU(), nn.Linear(300, 4))
    rows = measure_kernels(model, torch.randn(64, 400))
    assert rows[0].kernel == ("csr" if rows[0].sparse_seconds < 0.95 * rows[0].dense_seconds else "dense")
    assert rows[0].sparsity == pytest.approx(0.99, abs=0.005)
    assert all(0 < row.dense_seconds < 1 for row in rows)


@pytest.mark.gpu
def test_two_of_four_on_cuda() -> None:
    layer = nn.Linear(128, 128, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        layer.weight *= torch.tensor([1, 0, 0, 1], device="cuda").repeat(32)
    x: Tensor = torch.randn(64, 128, device="cuda", dtype=torch.float16)
    torch.testing.assert_close(SemiStructuredLinear(layer)(x), layer(x), rtol=1e-2, atol=1e-2)
