"""Every known method prunes networks of every kind under the same protocol."""

import copy
import itertools

import pytest
import torch
from neighbours import METHODS
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError
from support.llama import llama, projections, sentences
from support.networks import NETWORKS

OPTIONS = {"llm-surgeon": {"shots": 3}}
COMPENSATES = {"sparsegpt", "obc", "llm-surgeon"}
WITH_PATTERN = sorted(METHODS.keys() - {"llm-surgeon"})


def zeros_are_where_masks_say(model: nn.Module, masks: dict[str, Tensor]) -> bool:
    parameters = dict(model.named_parameters())
    return all(torch.equal(parameters[name] != 0, mask) for name, mask in masks.items())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_its_share_of_a_language_model(method: str) -> None:
    model = llama()
    before = copy.deepcopy(model.state_dict())
    weights = projections(model)
    masks = METHODS[method](model, sentences(), sparsity=0.5, weights=weights, **OPTIONS.get(method, {}))
    assert list(masks) == weights
    assert sum(int((~mask).sum()) for mask in masks.values()) == sum(m.numel() for m in masks.values()) // 2
    assert zeros_are_where_masks_say(model, masks)
    after = model.state_dict()
    moved = {name for name, mask in masks.items() if not torch.equal(after[name], before[name] * mask)}
    assert bool(moved) == (method in COMPENSATES)
    assert all(torch.equal(value, before[name]) for name, value in after.items() if name not in masks)
    assert model.training
    assert model.config.use_cache


@pytest.mark.parametrize("method", WITH_PATTERN)
def test_patterns_keep_n_of_m(method: str) -> None:
    model = llama()
    masks = METHODS[method](model, sentences(), pattern="3:4", weights=projections(model))
    assert zeros_are_where_masks_say(model, masks)
    for mask in masks.values():
        assert (mask.reshape(-1, 4).sum(1) == 3).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["lenet", "residual", "mlp", "bert", "gpt2"])
def test_every_method_runs_on_every_kind_of_network(method: str, kind: str) -> None:
    network = NETWORKS[kind]
    model = network.build()
    example = network.example()
    plain = isinstance(example, Tensor)
    batches = [(example, torch.zeros(len(example), dtype=torch.long))] if plain else [example]
    matrices = (name for name, value in model.named_parameters() if value.dim() > 1)
    weights = [name for name in matrices if not any(part in name for part in ("embed", "wte", "wpe"))]
    masks = METHODS[method](model, batches, sparsity=0.4, weights=weights, **OPTIONS.get(method, {}))
    total = sum(mask.numel() for mask in masks.values())
    # Where each layer has its own share, each is rounded.
    assert abs(sum(int((~mask).sum()) for mask in masks.values()) - 0.4 * total) <= 0.5 * len(masks)
    parameters = dict(model.named_parameters())
    assert all((parameters[name][~mask] == 0).all() for name, mask in masks.items())
    assert all(value.isfinite().all() for value in parameters.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "sparsity or pattern"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "sparsity or pattern"),
        ({"sparsity": 1.0}, "share in"),
        ({"pattern": "4:2"}, "N:M"),
        ({"pattern": "2:4"}, "multiple of 4"),
        ({"sparsity": 0.5, "weights": ["0.bias"]}, "weight parameters"),
        ({"sparsity": 0.5, "weights": []}, "at least one"),
        ({"sparsity": 0.5, "batches": []}, "batch"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_changes(arguments: dict, message: str) -> None:
    model = nn.Sequential(nn.Linear(6, 2))
    before = copy.deepcopy(model.state_dict())
    given = {"batches": [(torch.ones(4, 6), torch.zeros(4).long())], "weights": ["0.weight"], **arguments}
    with pytest.raises(InvalidArgumentError, match=message):
        METHODS["sparsegpt"](model, **given)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_interruption_gives_the_weights_back() -> None:
    model = llama()
    before = copy.deepcopy(model.state_dict())
    calls = itertools.count()

    def interrupt(*_: object) -> None:
        if next(calls) == 8:  # past the first block
            raise KeyboardInterrupt

    model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        METHODS["sparsegpt"](model, sentences(), sparsity=0.5, weights=projections(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
