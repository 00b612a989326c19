"""Pruning of trained networks of many kinds, end to end: what goes, what stays, what moves."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from secateur import prune_trained
from secateur.likelihoods import Bernoulli, Gaussian, Likelihood, Poisson
from secateur.modules import held_masks, hold
from secateur.pruning import PruneResult
from support.correlated import correlated, correlated_batches, trained_on_correlated
from support.llama import llama, projections, sentences
from support.networks import NETWORKS


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


class Grouped(nn.Module):
    """Convolutions in groups around batch norm, with a bias that moves."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3)))


def grouped() -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    model = Grouped()
    inputs, labels = torch.randn(80, 4, 5, 5) + 0.5, torch.randint(3, (80,))
    model(inputs)  # moments other than the initial ones
    return model.eval(), list(zip(inputs.split(20), labels.split(20), strict=True))


def of(name: str) -> tuple[nn.Module, list[Any]]:
    """A tiny network, and six batches whose labels are its own guesses, or its tokens."""
    tiny = NETWORKS[name]
    model = tiny.build().eval()
    batches: list[Any] = []
    for seed in range(6):
        example = tiny.example(seed)
        labels = tiny.outputs(model, example).argmax(-1)
        if isinstance(example, dict):
            example["attention_mask"][0, 4:] = 0
            batches.append({**example, "labels": example["input_ids"] if labels.dim() > 1 else labels})
        else:
            batches.append((example, labels))
    return model, batches


CASES: dict[str, Callable[[], tuple[nn.Module, list[Any]]]] = {
    "correlated": lambda: (trained_on_correlated(), correlated_batches()),
    "grouped": grouped,
    "llama": lambda: (llama().eval(), sentences()),
    **{name: lambda name=name: of(name) for name in ("residual", "attention", "bert", "gpt2")},
}


@pytest.fixture(params=CASES)
def case(request) -> tuple[nn.Module, list[Any]]:
    return CASES[request.param]()


def prune(model: nn.Module, batches: Any, **options: Any) -> PruneResult:
    options = {"sparsity": 0.5, "rounds": 2} | options
    return prune_trained(model, batches, progress=False, **options)


def test_the_share_is_exact_and_only_what_was_looked_at_has_changed(case):
    model, batches = case
    before, names = state(model), [name for name, _ in model.named_parameters()]
    result = prune(model, batches)
    after = state(model)
    assert list(after) == list(before)
    assert [name for name, _ in model.named_parameters()] == names
    total = sum(mask.numel() for mask in result.masks.values())
    assert sum(int((~mask).sum()) for mask in result.masks.values()) == round(0.5 * total)
    assert result.sparsity == pytest.approx(0.5, abs=1 / total)
    for name, mask in result.masks.items():
        assert torch.equal(after[name] == 0, ~mask)  # what stays is not zero
        if not mask.all():
            assert torch.equal(held_masks(model)[name], mask)
    moments = {name for name in before if "running" in name}
    layers = {name.rpartition(".")[0] for name in result.masks}
    biases = {name for name in before if name.rpartition(".")[0] in layers and name.endswith("bias")}
    for name in before.keys() - result.masks.keys() - moments - biases:
        assert torch.equal(after[name], before[name]), name
    assert all(not torch.equal(after[name], before[name]) for name in moments)
    if biases:
        assert any(not torch.equal(after[name], before[name]) for name in biases)
    assert all(value.isfinite().all() for value in after.values())


def test_modes_gradients_and_frozen_parts_are_as_before(case):
    model, batches = case
    parts = [module for module in model.modules() if module is not model]
    model.train()
    parts[0].eval()
    modes = [module.training for module in model.modules()]
    last = list(model.parameters())[-1]
    last.requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float(number)) if number % 2 else None
    flags = [parameter.requires_grad for parameter in model.parameters()]
    prune(model, batches, rounds=1)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    held = held_masks(model)
    for number, (name, parameter) in enumerate(model.named_parameters()):
        assert (parameter.grad is None) != bool(number % 2)
        if parameter.grad is not None:  # zeros have no gradient any more
            assert torch.equal(parameter.grad, number * held.get(name, torch.ones_like(parameter)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_zeros_stay_when_training_goes_on(case):
    model, batches = case
    result = prune(model, batches, rounds=1)
    before = state(model)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        if isinstance(batches[0], dict):
            loss = model(**batches[0]).loss
        else:
            loss = F.cross_entropy(model(batches[0][0]), batches[0][1])
        loss.backward()
        optimizer.step()
    after = state(model)
    for name, mask in result.masks.items():
        assert (after[name][~mask] == 0).all()
        assert torch.equal(after[name], before[name]) != bool(mask.any())


def test_output_layers_embeddings_and_norms_stay():
    for name in ("bert", "gpt2"):
        model, batches = of(name)
        looked_at = prune(model, batches, rounds=1).masks.keys()
        assert looked_at
        stay = ("wte", "wpe", "embed", "Norm", "ln_", "lm_head", "classifier")
        assert not [each for each in looked_at if any(part in each for part in stay)]
    model = llama()
    assert list(prune(model, sentences(), rounds=1).masks) == projections(model)
    assert model.lm_head.weight.all()


@pytest.mark.parametrize("loader", ["list", "shuffling", "shuffling with held-out data", "few batches"])
def test_a_seed_fixes_everything(loader):
    inputs, labels = correlated(300, 3)
    data = TensorDataset(inputs, labels)
    found = []
    for seed in (4, 4, 5):
        torch.manual_seed(len(found))  # what the process draws otherwise does not matter
        batches = list(DataLoader(data, 50)) if loader == "list" else DataLoader(data, 50, shuffle=True)
        options = {"held_out": DataLoader(data, 50, shuffle=True)} if "held" in loader else {}
        if loader == "few batches":
            options["max_batches"] = 2
        random = torch.random.get_rng_state()
        model = trained_on_correlated()
        result = prune(model, batches, seed=seed, sparsity=None, rounds=2, **options)
        assert torch.equal(torch.random.get_rng_state(), random)
        found.append((state(model), result.trace))
    assert found[0][1] == found[1][1]
    assert all(torch.equal(found[0][0][name], value) for name, value in found[1][0].items())
    assert found[0][1] != found[2][1]


def held_out_loss(model: nn.Module) -> float:
    inputs, labels = correlated(1000, 1)
    with torch.no_grad():
        return float(F.cross_entropy(model(inputs), labels))


def by_magnitude(model: nn.Sequential, sparsity: float) -> nn.Sequential:
    weights = [model[0].weight, model[2].weight]
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    threshold = sizes.kthvalue(round(sparsity * len(sizes))).values
    for weight in weights:
        weight.data *= weight.abs() > threshold
    return model


@pytest.mark.parametrize("structure", ["kronecker", "row"])
@pytest.mark.parametrize("spread", ["row", "conditioned"])
def test_it_is_better_than_magnitude_where_inputs_are_correlated(structure, spread):
    dense = held_out_loss(trained_on_correlated())
    rise = held_out_loss(by_magnitude(trained_on_correlated(), 0.8)) - dense
    model = trained_on_correlated()
    prune(model, correlated_batches(), sparsity=0.8, rounds=8, structure=structure, spread=spread)
    assert held_out_loss(model) - dense < (0.8 if spread == "row" else 0.1) * rise


def test_a_diagonal_moves_nothing():
    model = trained_on_correlated()
    before = state(model)
    result = prune(model, correlated_batches(), structure="diagonal")
    for name, value in state(model).items():
        assert torch.equal(value, before[name] * result.masks.get(name, torch.tensor(True)))


def test_what_is_held_is_never_revived():
    model = trained_on_correlated()
    mask = torch.rand(24, 12, generator=torch.Generator().manual_seed(0)) > 0.3
    mask[3] = False
    bias = torch.ones(24, dtype=torch.bool)
    bias[3] = False
    hold(model, {"0.weight": mask, "0.bias": bias})
    seen = []

    def look(_) -> None:
        seen.append((model[0].weight[~mask] == 0).all() and model[0].bias[3] == 0)

    result = prune(model, correlated_batches(), on_round=look)
    assert len(seen) == 2
    assert all(seen)
    assert not (result.masks["0.weight"] & ~mask).any()
    assert result.sparsity == 0.5  # with what was out before
    assert result.num_removed == round(0.5 * 672) - int((~mask).sum())
    assert torch.equal(held_masks(model)["0.bias"], bias)


def test_include_and_exclude_choose():
    model = trained_on_correlated()
    before = state(model)
    result = prune(model, correlated_batches(), exclude=["0.*"])
    assert list(result.masks) == ["2.weight"]
    assert torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[0].bias, before["0.bias"])
    result = prune(model, correlated_batches(), include=["4.weight"])
    assert list(result.masks) == ["4.weight"]
    assert int((model[4].weight == 0).sum()) == 24
    assert not torch.equal(model[4].bias, before["4.bias"])  # it moves with its row


def test_a_bias_that_is_excluded_stays_where_it_is():
    model = trained_on_correlated()
    before = state(model)
    prune(model, correlated_batches(), exclude=["2.bias"])
    assert torch.equal(model[2].bias, before["2.bias"])
    assert not torch.equal(model[0].bias, before["0.bias"])
    assert (model[2].weight == 0).any()


def groups(weight: Tensor, size: int, *, transposed: bool = False) -> Tensor:
    """How many stay of each group of consecutive inputs at one tap."""
    rows = weight.mT if transposed else weight.flatten(2).transpose(1, 2) if weight.dim() > 2 else weight
    return (rows.reshape(-1, size) != 0).sum(1)


@pytest.mark.parametrize(("pattern", "kept"), [("2:4", 2), ("1:4", 1)])
def test_a_pattern_is_held_in_every_group(pattern, kept):
    model = trained_on_correlated()
    result = prune(model, correlated_batches(), sparsity=None, pattern=pattern)
    assert result.sparsity == 1 - kept / 4
    assert all((groups(model[place].weight, 4) == kept).all() for place in (0, 2))
    model, batches = grouped()
    prune(model, batches, sparsity=None, pattern=pattern)
    assert (groups(model.first.weight, 4) == kept).all()
    assert (groups(model.second.weight, 4) == kept).all()
    model, batches = of("gpt2")
    result = prune(model, batches, sparsity=None, pattern=pattern)
    assert len(result.masks) == 4
    for name in result.masks:
        assert (groups(model.get_parameter(name), 4, transposed=True) == kept).all()


def test_a_pattern_is_reached_beside_zeros_that_it_would_not_have_chosen():
    model = trained_on_correlated()
    mask = torch.ones(24, 12, dtype=torch.bool)
    mask[:, :3] = False  # three of the first four
    hold(model, {"0.weight": mask})
    result = prune(model, correlated_batches(), sparsity=None, pattern="2:4")
    kept = groups(model[0].weight, 4).view(24, 3)
    assert (kept == torch.tensor([1, 2, 2])).all()
    assert (groups(model[2].weight, 4) == 2).all()
    assert result.stopped_by == "target"


def test_rounds_are_a_number_or_shares():
    seen = []
    model = trained_on_correlated()
    result = prune(model, correlated_batches(), rounds=4, sparsity=0.6, on_round=seen.append)
    assert seen == list(result.trace)
    shares = [1 - each.sparsity for each in seen]
    assert len(shares) == 4
    ratios = [after / before for before, after in pairwise([1.0, *shares])]
    assert ratios == pytest.approx([0.4**0.25] * 4, rel=0.02)  # the same share of what is left
    model = trained_on_correlated()
    result = prune(model, correlated_batches(), rounds=[0.1, 0.45, 0.6], sparsity=0.6)
    assert [each.sparsity for each in result.trace] == pytest.approx([0.1, 0.45, 0.6], abs=1e-3)
    assert sum(each.num_removed for each in result.trace) == result.num_removed == round(0.6 * 672)
    model = trained_on_correlated()
    assert prune(model, correlated_batches(), rounds=[0.1, 0.2], sparsity=None).trace[-1].sparsity < 0.25


def test_all_may_go_and_nothing_may_go():
    model = trained_on_correlated()
    before = state(model)
    result = prune(model, correlated_batches(), sparsity=0.0)
    assert result.trace == ()
    assert result.loss_before == result.loss_after
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    result = prune(model, correlated_batches(), sparsity=1.0)
    assert not model[0].weight.any()
    assert not model[2].weight.any()
    assert result.sparsity == 1


@pytest.mark.parametrize(
    ("likelihood", "targets"),
    [
        ("bernoulli", lambda mean: (mean > 0).float()),
        (Bernoulli(), lambda mean: (mean > 0).float()),
        (Gaussian(noise=0.2), lambda mean: mean),
        (Gaussian(noise="learned"), lambda mean: mean),
        (Poisson(), lambda mean: mean.clamp(-2, 2).exp().round()),
    ],
    ids=["bernoulli by name", "bernoulli", "gaussian", "gaussian, learned noise", "poisson"],
)
def test_any_likelihood_measures(likelihood: str | Likelihood, targets):
    torch.manual_seed(0)
    inputs = torch.randn(200, 6)
    labels = targets(inputs[:, :1] - inputs[:, 1:2])
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    parts = list(zip(inputs.split(50), labels.split(50), strict=True))
    result = prune(model, parts, likelihood=likelihood, rounds=2)
    assert result.sparsity == 0.5
    assert result.num_data == 200
    assert all(each.loss == each.loss for each in result.trace)
    assert result.loss_after != result.loss_before


def test_half_precision_stays():
    model = trained_on_correlated().bfloat16()
    batches = [(inputs.bfloat16(), labels) for inputs, labels in correlated_batches()]
    assert prune(model, batches).sparsity == 0.5
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}


def test_progress_is_shown_only_where_asked(monkeypatch):
    shown = []
    monkeypatch.setattr("rich.progress.track", lambda steps, **_: shown.append(len(steps)) or steps)
    prune_trained(trained_on_correlated(), correlated_batches(), sparsity=0.5, rounds=2)
    assert shown == [2]
    prune(trained_on_correlated(), correlated_batches())
    assert shown == [2]
