"""Inputs of layers are gathered from the right tokens, patches and blocks."""

import pytest
import torch
from neighbours import METHODS
from neighbours.blocks import chain_of_blocks
from neighbours.layers import find_layers
from neighbours.moments import execution_groups, input_moments
from neighbours.task import Task
from torch import nn

from support.llama import llama, projections, sentences


def task(model: nn.Module, batches: list, weights: list[str], **changes) -> Task:
    given = {"sparsity": 0.5, "pattern": None, "likelihood": "categorical", "seed": 0, "num_data": None}
    return Task(model=model, batches=batches, layers=find_layers(model, weights), **(given | changes))


def test_blocks_are_walked_to_the_same_result_as_whole_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    by_blocks, whole = llama(), llama()
    weights = projections(whole)
    assert len(chain_of_blocks(task(whole, sentences(), weights))) == 3
    METHODS["sparsegpt"](by_blocks, sentences(), sparsity=0.5, weights=weights)
    monkeypatch.setattr("neighbours.blocks.chain_of_blocks", lambda _: [])
    METHODS["sparsegpt"](whole, sentences(), sparsity=0.5, weights=weights)
    for (name, one), other in zip(by_blocks.named_parameters(), whole.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name


def test_layers_with_one_input_are_a_group() -> None:
    model = llama()
    groups = execution_groups(task(model, sentences(), projections(model)))
    names = [[layer.name.split(".")[-2] for layer in group.layers] for group in groups[:4]]
    assert names == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert len(groups) == 12


def test_moments_leave_padding_out() -> None:
    model = llama().eval()
    name = "model.layers.0.self_attn.q_proj.weight"
    batches = sentences()
    found = input_moments(task(model, batches, [name]))[name]
    layer = model.model.layers[0]
    expected = torch.zeros(16, 16)
    for batch in batches:
        embedded = layer.input_layernorm(model.model.embed_tokens(batch["input_ids"]))
        rows = embedded[batch["attention_mask"].bool()].detach()
        expected += rows.T @ rows
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_moments_of_a_convolution_are_those_of_its_patches() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1, dilation=1).double())
    inputs = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = input_moments(task(model, [inputs], ["0.weight"]))["0.weight"]
    # The squared norm of the outputs of one filter is its quadratic form.
    weight = model[0].weight.detach()[0]
    outputs = nn.functional.conv2d(inputs, weight[None], stride=2, padding=1)
    assert torch.isclose(weight.flatten() @ moments @ weight.flatten(), outputs.square().sum())
