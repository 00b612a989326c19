"""A pass that has begun: it can be begun anew without another look, and can give its sums away."""

import pytest
import torch
from torch import Tensor, nn

from secateur.curvature import Curvature, CurvaturePass
from secateur.curvature.sums import GRAM_BLOCK
from secateur.errors import InvalidArgumentError
from support.llama import llama, projections, sentences


def values(curvature: Curvature) -> dict[str, Tensor]:
    found = dict(curvature.diagonal)
    for name, layer in curvature.layers.items():
        found |= {f"{name} A": layer.A, f"{name} G": layer.G, f"{name} rows": layer.row_sums}
    return found


def added(begun: CurvaturePass) -> CurvaturePass:
    for batch in sentences():
        begun.add(batch)
    return begun


def test_a_restarted_pass_is_a_new_one():
    model = llama()
    expected = values(added(CurvaturePass(model, include=projections(model), seed=3)).result())
    first = added(CurvaturePass(model, include=projections(model), seed=1))
    again = added(first.restarted(3))
    for name, value in values(again.result()).items():
        assert torch.equal(value, expected[name]), name
    assert any(not torch.equal(value, expected[name]) for name, value in values(first.result()).items())


def test_restarting_neither_calls_the_network_nor_forgets_that_labels_are_shifted():
    model, calls = llama(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    first = added(CurvaturePass(model, include=projections(model)))
    looks = len(calls) - len(sentences())
    assert looks > 0
    calls.clear()
    added(first.restarted(0))
    assert len(calls) == len(sentences())
    with pytest.raises(InvalidArgumentError, match="at least one batch"):
        first.restarted(0).result()


def test_a_restart_looks_at_the_weights():
    model = llama()
    first = added(CurvaturePass(model, include=projections(model)))
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(
        InvalidArgumentError, match=r"^model\.layers\.1\.mlp\.up_proj\.weight: expected finite"
    ):
        first.restarted(0)


def test_a_result_that_ends_the_pass_is_the_same():
    model = llama()
    begun = added(CurvaturePass(model, include=projections(model)))
    expected = values(begun.result())
    for name, value in values(begun.result(ends=True)).items():
        assert torch.equal(value, expected[name]), name
    with pytest.raises(InvalidArgumentError, match="at least one batch"):
        begun.result()


def test_sums_of_wide_layers_are_whole(generator):
    """They are summed from the diagonal up, in blocks; two and a half of them here."""
    width = GRAM_BLOCK * 5 // 2
    model = nn.Sequential(nn.Linear(width, width // 2, bias=False), nn.Linear(width // 2, 3, bias=False))
    inputs = torch.randn(20, width, generator=generator)
    begun = CurvaturePass(model.double(), outputs="exact")
    begun.add((inputs.double(), torch.zeros(20, dtype=torch.long)))
    layer = begun.result().layers["0"]
    expected = inputs.double().T @ inputs.double() / 20
    torch.testing.assert_close(layer.A, expected)
    assert torch.equal(layer.A, layer.A.mT)
    assert torch.equal(layer.G, layer.G.mT)
    assert torch.linalg.matrix_rank(layer.G) == 2  # as three probabilities have


def test_under_autocast_a_pass_sees_the_same_network():
    """In coarser numbers, but each weight is used as the linear map that it is, none datum by datum."""
    model = llama()
    expected, found = CurvaturePass(model, diagonal=True), CurvaturePass(model, diagonal=True)
    added(expected)
    with torch.autocast("cpu", torch.bfloat16):
        added(found)
    one, other = expected.result(), found.result()
    assert one.layers.keys() == other.layers.keys()
    differences = []
    for name, layer in one.layers.items():
        assert other.layers[name].A.dtype == torch.float32
        differences.append(float((other.layers[name].A - layer.A).norm() / layer.A.norm()))
    assert 0 < max(differences) < 0.02
