"""Multiply-adds by weight, and removals that aim at a share of them."""

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur import networks
from secateur.compaction import compact
from secateur.errors import InvalidArgumentError
from secateur.export.measure import num_macs
from secateur.modules import hold
from secateur.pruning.operations import dense_part, operations_of_weights


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(7), nn.Flatten(),
        nn.Linear(24, 6), nn.ReLU(), nn.Linear(6, 3),
    ).eval()  # fmt: skip


def data(shape: tuple[int, ...], classes: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(16, *shape, generator=generator), torch.arange(16) % classes) for _ in range(3)]


def test_an_entry_of_a_kernel_is_used_at_each_place() -> None:
    found = operations_of_weights(convolutional(), torch.zeros(1, 1, 16, 16))
    assert found == {"0.weight": 14 * 14, "4.weight": 1, "6.weight": 1}


def test_all_entries_together_are_the_work_of_a_call() -> None:
    model, x = networks.build("lenet", image_shape=(1, 32, 32), num_classes=3), torch.zeros(1, 1, 32, 32)
    parameters = dict(model.named_parameters())
    total = sum(each * parameters[name].numel() for name, each in operations_of_weights(model, x).items())
    assert total == num_macs(model, (x,))


def test_a_tied_weight_is_used_by_both_modules() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert operations_of_weights(model, torch.zeros(1, 4)) == {"0.weight": 2}
    assert operations_of_weights(nn.Linear(4, 2), torch.zeros(3, 4)) == {"weight": 3}


def test_scattered_zeros_save_nothing_and_empty_rows_do() -> None:
    mask = torch.tensor([[True, False, False], [False, False, False], [False, False, True]])
    used = torch.tensor([[True, False, True], [False, False, False], [True, False, True]])
    assert torch.equal(dense_part(mask), used)
    assert torch.equal(dense_part(mask[..., None].expand(3, 3, 2)), used[..., None].expand(3, 3, 2))
    assert torch.equal(dense_part(mask[0]), mask[0])


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_a_share_of_the_work_is_left(share: float, scattered: bool, generator: torch.Generator) -> None:
    model = networks.build("lenet", image_shape=(1, 32, 32), num_classes=3, seed=0).eval()
    x = torch.zeros(2, 1, 32, 32)
    whole = num_macs(model, (x[:1],))
    if scattered:  # as a run that weights have been removed from
        hold(model, {name: torch.rand(each.shape, generator=generator) > 0.5
                     for name, each in model.named_parameters() if each.dim() > 1})  # fmt: skip
    secateur.prune_trained(
        model, data((1, 32, 32), 3, generator), granularity="channel", multiply_adds=share, rounds=3,
        progress=False,
    )  # fmt: skip
    # one channel of the first convolution costs at most a sixth of it and of the second; what scattered
    # zeros have cut off on the way is taken out too
    assert share - 0.01 < num_macs(compact(model, x), (x[:1],)) / whole < share + 0.15


def test_ranked_by_operations_the_costly_units_go_first(generator: torch.Generator) -> None:
    batches, left = data((1, 16, 16), 3, generator), {}
    for cost in ("weights", "multiply-adds"):
        result = secateur.prune_trained(
            convolutional(), batches, granularity=("neuron", "channel"), cost=cost, rounds=[0.5],
            max_loss_rise=10.0, progress=False,
        )  # fmt: skip
        left[cost] = result.units_after
    assert left["multiply-adds"]["0"] < left["weights"]["0"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"multiply_adds": 0.5, "granularity": "weight"}, "multiply_adds: expected whole units"),
        ({"multiply_adds": 1.5}, "multiply_adds: expected a share between 0 and 1, got 1.5"),
        ({"multiply_adds": 1e-3}, "multiply_adds: expected at least 0."),
        ({"multiply_adds": 0.5, "sparsity": 0.5}, "multiply_adds: expected no sparsity beside it"),
        ({"multiply_adds": 0.5, "max_loss_rise": 0.5}, "expected no target beside it"),
        ({"multiply_adds": 0.5, "rounds": [0.2, 0.4]}, "rounds: expected their number beside multiply_adds"),
        ({"cost": "time"}, "cost: expected one of weights, multiply-adds, got 'time'"),
        ({"cost": "multiply-adds", "sparsity": 0.5}, "cost: expected weights beside a sparsity"),
    ],
)
def test_what_cannot_be_asked_for(options: dict, said: str, generator: torch.Generator) -> None:
    model = convolutional()
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    with pytest.raises(InvalidArgumentError, match=said):
        secateur.prune_trained(
            model,
            data((1, 16, 16), 3, generator),
            **{"granularity": "channel", "progress": False, **options},
        )
    assert all(torch.equal(before[name], each) for name, each in model.named_parameters())


def test_a_share_that_is_there_already_is_said(generator: torch.Generator) -> None:
    model, batches = convolutional(), data((1, 16, 16), 3, generator)
    options = {"granularity": "channel", "progress": False, "rounds": 1}
    secateur.prune_trained(model, batches, multiply_adds=0.5, **options)
    with pytest.raises(InvalidArgumentError, match=r"multiply_adds: expected at most 0.5.*left already"):
        secateur.prune_trained(model, batches, multiply_adds=0.8, **options)
