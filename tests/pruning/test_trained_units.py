"""Whole units of trained networks: which go, and which weights go with them."""

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import InvalidArgumentError
from secateur.pruning.joint_layer import JointLayer
from secateur.pruning.trained_units import TrainedUnits
from support.llama import llama, sentences

FLOAT64 = torch.float64


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def data(generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(20, 6, generator=generator), torch.arange(20) % 3) for _ in range(4)]


def matrices(model: nn.Module) -> set[str]:
    return {name for name, each in model.named_parameters() if each.dim() > 1}


def test_units_go_whole_and_the_share_is_as_near_as_units_allow(generator: torch.Generator) -> None:
    model = mlp()
    result = secateur.prune_trained(
        model, data(generator), sparsity=0.5, granularity="neuron", rounds=3, progress=False
    )
    first, second = model[0].weight, model[2].weight
    rows, columns = (first != 0).any(1), (second != 0).any(0)
    assert torch.equal(rows, columns)
    assert ((first != 0).all(1) | (first == 0).all(1)).all()
    assert not model[0].bias[~rows].any()
    smallest = 6 + 1 + 3  # entries of a neuron at the least: its row, its bias, and three readers
    assert 0.5 - smallest / result.num_weights <= result.sparsity <= 0.5
    assert result.units_before == {"0": 12, "2": 8}
    assert result.units_after == {"0": int(rows.sum()), "2": int((second != 0).any(1).sum())}
    small = secateur.compact(model, torch.zeros(2, 6))
    assert small[0].out_features == rows.sum()
    x = torch.randn(5, 6, generator=generator)
    torch.testing.assert_close(small(x), model(x))


def test_the_sizes_of_many_units_are_counted_a_few_times(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes seconds in a large network: neither layers nor units may make more of them."""
    model = nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 3))
    counts = []
    sizes = TrainedUnits.sizes

    def counted(units: TrainedUnits, keep: dict[str, Tensor]) -> Tensor:
        counts.append(keep)
        return sizes(units, keep)

    monkeypatch.setattr(TrainedUnits, "sizes", counted)
    # the remainder is smaller than any unit that is left
    secateur.prune_trained(
        model, data(generator), sparsity=0.5, granularity="neuron", rounds=1, progress=False
    )
    assert len(counts) <= 12


def test_a_key_and_value_go_with_all_their_queries() -> None:
    model = llama()
    secateur.prune_trained(
        model, sentences(), sparsity=0.4, granularity=("neuron", "head"), rounds=2, progress=False
    )
    width = model.config.hidden_size // model.config.num_attention_heads
    for layer in model.model.layers:
        attention = layer.self_attn
        keys = (attention.k_proj.weight != 0).any(1).view(-1, width).any(1)
        queries = (attention.q_proj.weight != 0).any(1).view(len(keys), -1).any(1)
        read = (attention.o_proj.weight != 0).any(0).view(len(keys), -1).any(1)
        assert torch.equal(keys, queries)
        assert torch.equal(keys, read)
        assert keys.any()
        assert torch.equal((layer.mlp.gate_proj.weight != 0).any(1), (layer.mlp.down_proj.weight != 0).any(0))


def test_rows_that_nothing_reads_cost_nothing(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a unit costs is predicted once, where it is read."""
    rises: dict[str, float] = {}
    whole = JointLayer.rise

    def noted(layer: JointLayer, weights: Tensor) -> float:
        rises[layer.name] = whole(layer, weights)
        return rises[layer.name]

    monkeypatch.setattr(JointLayer, "rise", noted)
    model = mlp()
    secateur.prune_trained(
        model,
        data(generator),
        sparsity=0.3,
        granularity="neuron",
        rounds=1,
        exclude=["4.*"],
        progress=False,
    )
    assert (model[0].weight == 0).all(1).any()
    assert rises["0"] == 0
    assert rises["2"] > 0


def test_kinds_that_a_network_lacks_are_named() -> None:
    model = mlp()
    with pytest.raises(
        InvalidArgumentError, match=r"expected heads that one layer reads.*network with neuron"
    ):
        TrainedUnits.of(model, torch.zeros(2, 6), ("head",), matrices(model))
