"""Masks on a model: what they touch, what they leave, and that they hold through whatever moves weights."""

import copy
import io

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import prune as torch_prune

from secateur.errors import InvalidArgumentError
from secateur.modules import (
    held_masks,
    hold,
    hold_zeros,
    mask_of,
    masked,
    masks_of,
    release,
    version,
)
from support.networks import Tied, mlp


class Nested(nn.Module):
    """Parameters at the root, in nested modules, and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(4, 6))
        self.body = nn.ModuleDict({"deep": nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 4)))})
        self.heads = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.body["deep"](x) + x @ self.gain.T
        return self.heads[1](self.heads[0](x).tanh())


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def some_masks(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.rand(value.shape) > 0.5 for name, value in model.named_parameters()}


def content(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def assert_zeros(model: nn.Module, masks: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert not any(parameters[name][~mask].any() for name, mask in masks.items())


def train(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.1)


# Holding -------------------------------------------------------------------------------------------------


def test_a_held_network_differs_by_its_zeros_only() -> None:
    model = Nested()
    parameters, before = dict(model.named_parameters()), content(model)
    masks = {
        "gain": torch.rand(4, 6) > 0.5,
        "body.deep.1.0.weight": torch.rand(4, 6) > 0.5,
        "heads.0.bias": torch.tensor([True, False, True, True]),
    }
    hold(model, masks | {"heads.1.weight": torch.ones(2, 4, dtype=torch.bool)})
    assert_same(held_masks(model), masks)
    assert dict(model.named_parameters()) == parameters
    assert_same(content(model), {n: v * masks[n] if n in masks else v for n, v in before.items()})
    assert list(model.state_dict()) == list(before)
    assert not list(model.buffers())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "kind", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128]
)
@pytest.mark.parametrize("shape", [(70_001,), (3, 4, 5, 6), ()], ids=str)
def test_removed_entries_are_zeros_whatever_they_were(kind: torch.dtype, shape: tuple[int, ...]) -> None:
    """Also those that a diverged step left nan, and none is -0.0; in any order in memory."""
    model = nn.Module()
    values = torch.randn(shape, dtype=kind)
    if len(shape) == 4:
        values = values.to(memory_format=torch.channels_last)
    kept = torch.rand(shape) > 0.5 if shape else torch.tensor(False)
    values[~kept] = torch.tensor([-torch.inf, torch.nan, -1.0], dtype=kind)[
        torch.arange(int((~kept).sum())) % 3
    ]
    model.weight = nn.Parameter(values.clone())
    hold(model, {"weight": kept})
    found = torch.view_as_real(model.weight) if kind.is_complex else model.weight
    assert torch.equal(model.weight[kept], values[kept])
    assert not found[~kept].any()
    assert not found[~kept].signbit().any()


def test_what_is_out_stays_out() -> None:
    model = mlp()
    first, second = torch.rand(8, 5) > 0.4, torch.rand(8, 5) > 0.4
    hold(model, {"0.weight": first})
    hold(model, {"0.weight": second.float()})
    assert_same(held_masks(model), {"0.weight": first & second})
    hold(model, {"0.weight": torch.ones(8, 5)})
    assert_same(held_masks(model), {"0.weight": first & second})
    assert_zeros(model, {"0.weight": first & second})


def test_the_callers_masks_stay_the_callers() -> None:
    model = mlp()
    mask = torch.rand(8, 5) > 0.5
    hold(model, {"0.weight": mask})
    expected = mask.clone()
    mask.fill_(True)
    held_masks(model)["0.weight"].fill_(False)
    assert_same(held_masks(model), {"0.weight": expected})


def test_held_training_is_that_of_masked_weights() -> None:
    """The same numbers as `torch.nn.utils.prune`, which multiplies by the mask in each forward pass."""
    ours, theirs = mlp(), mlp()
    theirs.load_state_dict(ours.state_dict())
    mask = torch.rand(8, 5) > 0.5
    hold(ours, {"0.weight": mask})
    torch_prune.custom_from_mask(theirs[0], "weight", mask)
    inputs = torch.randn(20, 5)
    for model in (ours, theirs):
        sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
        train(model, sgd, inputs, steps=5)
    assert torch.equal(ours[0].weight, theirs[0].weight_orig * mask)
    assert torch.equal(ours[2].weight, theirs[2].weight)


def test_momentum_from_before_brings_nothing_back() -> None:
    model, inputs = mlp(), torch.randn(20, 5)
    optimizer = adam(model)
    train(model, optimizer, inputs)
    masks = some_masks(model)
    hold(model, masks)
    before = content(model)
    for _ in range(3):
        train(model, optimizer, inputs, steps=1)
        assert_zeros(model, masks)
    assert all(not torch.equal(value, before[name]) for name, value in content(model).items())


def test_a_removed_weight_does_not_stop_a_gradient_scaler() -> None:
    """A gradient that overflows only where weights are out is no overflow."""
    model = nn.Linear(3, 1, bias=False)
    hold(model, {"weight": torch.tensor([[True, False, True]])})
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD(model.parameters(), lr=0.1)
    before = content(model)["weight"]
    scaler.scale((model.weight * torch.tensor([1.0, torch.inf, 1.0])).sum()).backward()
    scaler.step(optimizer)
    assert torch.allclose(model.weight, before - 0.1 * torch.tensor([[1.0, 0.0, 1.0]]))


def test_gradients_that_are_there_already_lose_removed_entries() -> None:
    model = mlp()
    model(torch.randn(4, 5)).sum().backward()
    masks = {"0.weight": torch.rand(8, 5) > 0.5}
    hold(model, masks)
    assert not model[0].weight.grad[~masks["0.weight"]].any()
    assert model[0].weight.grad.any()


def test_sparse_gradients() -> None:
    embedding = nn.Embedding(6, 4, sparse=True)
    masks = {"weight": torch.rand(6, 4) > 0.5}
    hold(embedding, masks)
    optimizer = torch.optim.SparseAdam(embedding.parameters(), lr=0.1)
    before = content(embedding)["weight"]
    embedding(torch.tensor([0, 1, 1])).sum().backward()
    optimizer.step()
    assert_zeros(embedding, masks)
    assert not torch.equal(embedding.weight, before)


def test_frozen_weights_that_thaw() -> None:
    model = mlp().requires_grad_(False)
    masks = some_masks(model)
    hold(model, masks)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    train(model.requires_grad_(True), adam(model), torch.randn(4, 5))
    assert_zeros(model, masks)
    assert not model[0].weight.grad[~masks["0.weight"]].any()


def test_optimizers_that_hold_masks_are_passed_over() -> None:
    class Own(torch.optim.SGD):
        holds_masks = True

    model = nn.Linear(2, 1, bias=False)
    hold(model, {"weight": torch.tensor([[True, False]])})
    for kind, moves in ((torch.optim.SGD, False), (Own, True)):
        model.weight.grad = torch.ones(1, 2)
        kind(model.parameters(), lr=1.0).step()
        assert bool(model.weight[0, 1]) == moves


# What happens to models ----------------------------------------------------------------------------------


def test_a_copy_holds_for_itself() -> None:
    model = mlp()
    masks = some_masks(model)
    hold(model, masks)
    twin = copy.deepcopy(model)
    assert_same(held_masks(twin), masks)
    hold(twin, {"0.weight": torch.zeros(8, 5)})
    assert_same(held_masks(model), masks)
    release(model)
    train(twin, adam(twin), torch.randn(4, 5))
    assert_zeros(twin, masks)
    assert not twin[0].weight.any()


def test_a_traced_network_and_its_copy_hold() -> None:
    model = Nested()
    masks = {"gain": torch.rand(4, 6) > 0.5, "heads.0.weight": torch.rand(4, 4) > 0.5}
    hold(model, masks)
    traced = fx.symbolic_trace(model)
    hold(traced, masks)
    twin = copy.deepcopy(traced)
    assert_same(held_masks(twin), masks)
    train(twin, adam(twin), torch.randn(4, 6))
    assert_zeros(twin, masks)


def test_a_pickled_model_holds() -> None:
    model = Tied()
    hold(model, {"head.weight": torch.rand(7, 5) > 0.5, "middle.weight": torch.rand(5, 5) > 0.5})
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert_same(held_masks(loaded), held_masks(model))
    assert loaded.head.weight is loaded.embed.weight
    train(loaded, adam(loaded), torch.arange(7))
    assert_zeros(loaded, held_masks(model))
    loaded.register_load_state_dict_post_hook(lambda *_: None)
    loaded.load_state_dict(Tied().state_dict())
    assert_zeros(loaded, held_masks(model))


@pytest.mark.parametrize("assign", [False, True])
def test_loading_dense_weights_leaves_the_zeros(assign: bool) -> None:
    model, dense = Tied(), Tied()
    mask = torch.rand(7, 5) > 0.5
    hold(model, {"embed.weight": mask})
    model.load_state_dict(copy.deepcopy(dense.state_dict()), assign=assign)
    assert_same(held_masks(model), {"embed.weight": mask, "head.weight": mask})
    train(model, adam(model), torch.arange(7))
    assert_zeros(model, {"embed.weight": mask, "head.weight": mask})
    assert (model.embed.weight is model.head.weight) != assign  # torch unties what it assigns


def test_a_parameter_that_is_replaced_is_held_when_next_asked() -> None:
    model = mlp()
    masks = {"0.weight": torch.rand(8, 5) > 0.5, "0.bias": torch.rand(8) > 0.5}
    hold(model, masks)
    model[0].weight = nn.Parameter(torch.randn(8, 5))
    assert_same(held_masks(model), masks)
    assert_zeros(model, masks)
    model[0].weight = nn.Parameter(torch.randn(4, 5))  # of another shape: another weight
    assert_same(held_masks(model), {"0.bias": masks["0.bias"]})


def test_tied_weights_are_held_under_every_name() -> None:
    model = Tied()
    mask, tighter = torch.rand(7, 5) > 0.5, torch.rand(7, 5) > 0.5
    hold(model, {"embed.weight": mask})
    assert_same(held_masks(model), {"embed.weight": mask, "head.weight": mask})
    train(model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9), torch.arange(7))
    assert_zeros(model, {"embed.weight": mask, "head.weight": mask})
    hold(model, {"head.weight": tighter, "embed.weight": torch.ones(7, 5)})
    assert_same(held_masks(model), {"embed.weight": mask & tighter, "head.weight": mask & tighter})


def test_released_weights_move_again() -> None:
    model = mlp()
    masks = some_masks(model)
    hold(model, masks)
    assert_same(release(model), masks)
    assert held_masks(model) == {}
    assert_zeros(model, masks)
    assert mask_of(model[0].weight) is None
    train(model, adam(model), torch.randn(4, 5))
    assert model[0].weight[~masks["0.weight"]].all()
    assert not any(module._load_state_dict_post_hooks for module in model.modules())
    hold(model, masks)
    assert_zeros(model, masks)
    assert release(mlp()) == {}


def test_the_version_tells_of_every_change() -> None:
    model = mlp()
    seen = [version()]
    hold(model, {"0.weight": torch.ones(8, 5)})
    assert version() == seen[-1]
    for change in (
        lambda: hold(model, {"0.weight": torch.rand(8, 5) > 0.2}),
        lambda: hold(model, {"0.weight": torch.rand(8, 5) > 0.2}),
        lambda: release(model),
    ):
        change()
        assert version() not in seen
        seen.append(version())
    train(model, adam(model), torch.randn(4, 5))
    held_masks(model)
    assert version() == seen[-1]


def test_the_mask_of_a_parameter() -> None:
    model = mlp()
    mask = torch.rand(8, 5) > 0.5
    hold(model, {"0.weight": mask})
    found = mask_of(model[0].weight)
    assert found is not None
    assert torch.equal(found, mask)
    assert mask_of(model[2].weight) is None


# Zeros read off ------------------------------------------------------------------------------------------


def test_zeros_are_held_again_after_loading() -> None:
    model, fresh = mlp(), mlp()
    masks = some_masks(model)
    hold(model, masks)
    fresh.load_state_dict(model.state_dict())
    assert held_masks(fresh) == {}
    assert_same(masks_of(fresh), masks)
    assert held_masks(fresh) == {}
    assert_same(hold_zeros(fresh), masks)
    train(fresh, adam(fresh), torch.randn(4, 5))
    assert_zeros(fresh, masks)
    assert hold_zeros(mlp()) == {}


def test_held_masks_win_over_zeros() -> None:
    model = mlp()
    mask = torch.rand(8, 5) > 0.5
    hold(model, {"0.weight": mask})
    with torch.no_grad():
        model[0].weight[mask] = 0.0
        model[2].weight[0, 0] = 0.0
    found = masks_of(model)
    assert torch.equal(found["0.weight"], mask)
    assert found["2.weight"].sum() == 47


def test_what_is_zero_from_the_start_is_not_removed() -> None:
    """Biases, a padding row, the shifts of a norm."""
    model = nn.ModuleDict({
        "tokens": nn.Embedding(7, 5, padding_idx=2),
        "layer": nn.Linear(5, 4),
        "norm": nn.BatchNorm1d(4),
    })
    nn.init.zeros_(model["layer"].bias)
    assert masks_of(model) == {}
    with torch.no_grad():
        model["tokens"].weight[3, 1] = 0.0
        model["norm"].weight[1] = 0.0
        model["layer"].bias[0] = 1.0
    found = masks_of(model)
    assert found.keys() == {"tokens.weight", "layer.bias"}
    assert found["tokens.weight"].sum() == 34
    assert found["layer.bias"].tolist() == [True, False, False, False]


def test_a_bias_that_is_all_out_counts_beside_pruned_weights() -> None:
    layer = nn.Linear(5, 4)
    with torch.no_grad():
        layer.weight[1] = 0.0
        layer.bias.zero_()
    assert not masks_of(layer)["bias"].any()


# Weights that return -------------------------------------------------------------------------------------


def test_masked_weights_return_exactly() -> None:
    model = Tied()
    before = content(model)
    masks = {"embed.weight": torch.rand(7, 5) > 0.5, "middle.bias": torch.zeros(5)}
    with masked(model, masks):
        assert_same(
            content(model),
            before
            | {name: before[name] * masks["embed.weight"] for name in ("embed.weight", "head.weight")}
            | {"middle.bias": torch.zeros(5)},
        )
    assert_same(content(model), before)
    assert held_masks(model) == {}
    with pytest.raises(RuntimeError, match="meanwhile"), masked(model, masks):
        raise RuntimeError("meanwhile")
    assert_same(content(model), before)


# Refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [hold, lambda *arguments: masked(*arguments).__enter__()])
@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"7.weight": torch.zeros(2)}, "expected names of the model's parameters, got '7.weight'"),
        ({"0.wait": torch.zeros(8, 5)}, "expected names of the model's parameters, got '0.wait'"),
        ({"2.bias": torch.zeros(8)}, r"expected shape \(6,\), got \(8,\)"),
        ({"2.bias": torch.full((6,), torch.nan)}, "expected True where an entry stays, got nan"),
    ],
)
def test_wrong_masks_leave_the_model_unchanged(how, masks: dict[str, Tensor], message: str) -> None:
    model = mlp()
    before, number = content(model), version()
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        how(model, {"0.weight": torch.zeros(8, 5)} | masks)
    assert "\n" not in str(caught.value)
    assert_same(content(model), before)
    assert held_masks(model) == {}
    assert version() == number


def test_models_without_values_are_refused() -> None:
    with torch.device("meta"):
        model = mlp()
    with pytest.raises(InvalidArgumentError, match=r"weights in memory, got '0.weight' without values"):
        hold(model, {"0.weight": torch.zeros(8, 5)})
    with pytest.raises(InvalidArgumentError, match="weights in memory, got 'weight' without values"):
        hold(nn.LazyLinear(3), {"weight": torch.zeros(3, 5)})
    with pytest.raises(InvalidArgumentError, match="weights in memory"):
        hold_zeros(model)


def test_integer_parameters_are_refused() -> None:
    model = nn.Module()
    model.register_parameter("codes", nn.Parameter(torch.ones(3, 2, dtype=torch.int8), requires_grad=False))
    with pytest.raises(InvalidArgumentError, match=r"floating-point parameters, got 'codes' of torch.int8"):
        hold(model, {"codes": torch.zeros(3, 2)})
    assert masks_of(model) == {}
