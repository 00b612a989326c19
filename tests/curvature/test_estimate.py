"""Curvature by one pass against whole Jacobians, for every way in which a parameter can be used."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur.curvature import estimate
from secateur.curvature.batches import read_batch
from secateur.curvature.plan import make_plan
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Gaussian, resolve
from secateur.networks import VisionTransformer
from support.curvature_oracle import jacobian, split, whole_ggn

TIGHT = {"rtol": 1e-9, "atol": 1e-12}
SLOW = {
    "recurrent": {f"cell.{kind}_{part}_l0" for kind in ("weight", "bias") for part in ("ih", "hh")},
    "reparametrised": {f"0.parametrizations.weight.original{i}" for i in (0, 1)},
    "bare": {"divisor"},
    "separate-projections": {"0.attention.bias_k", "0.attention.bias_v"},
}


def exactly(model, loader, **options):
    return estimate(model, loader, outputs="exact", **options)


def test_the_diagonal_and_its_row_sums_are_exact(kind):
    expected = split(kind.model, whole_ggn(kind.model, kind.inputs).diagonal())
    found = exactly(kind.model, [kind.inputs], diagonal=True)
    assert set(found.layers) == kind.layers
    assert found.num_seen == found.num_data == len(kind.inputs)
    diagonals = found.diagonals()
    assert diagonals.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(diagonals[name], value, **TIGHT, msg=lambda text, n=name: f"{n}: {text}")
    rows_only = exactly(kind.model, [kind.inputs[:4], kind.inputs[4:]])
    for name, layer in rows_only.layers.items():
        sums = layer.matrix.pack(expected).sum(1)
        torch.testing.assert_close(layer.row_sums, sums, **TIGHT)
        torch.testing.assert_close(found.layers[name].row_sums, sums, **TIGHT)
        if layer.G is not None and layer.A.any():
            scaled = torch.outer(layer.output_factor.diagonal(), layer.A.diagonal()).sum(1)
            torch.testing.assert_close(scaled, sums, **TIGHT)


def test_only_what_is_not_recognised_is_taken_one_datum_at_a_time(request, kind):
    name = request.node.callspec.params["kind"]
    parameters = dict(kind.model.named_parameters())
    batch = read_batch(kind.inputs, torch.device("cpu"))
    options = {"structure": "kronecker", "with_diagonal": False, "largest_factor": 100}
    assert make_plan(kind.model.eval(), parameters, batch, **options).slow == SLOW.get(name, set())


def inputs_and_slopes(model: nn.Module, module: nn.Module, inputs: torch.Tensor):
    """For each datum: what each call of a module was given, and the gradients of its outputs."""
    likelihood = resolve("categorical")
    for example in inputs:
        calls = []

        def note(_, given, out, calls=calls):
            calls.append((given[0].clone(), out))
            return out.clone()  # what follows may work in place

        handle = module.register_forward_hook(note)
        outputs = model(example[None])[0]
        handle.remove()
        root = likelihood.root(outputs.detach())
        slopes = [
            torch.autograd.grad(outputs, [out for _, out in calls], direction, retain_graph=True)
            for direction in root.unbind(-1)
        ]
        yield [given.detach() for given, _ in calls], slopes


def naive_factors(kind, name):
    """A and G of METHOD.md section 5, with explicit loops over data, calls and positions."""
    module = kind.model.get_submodule(name)
    totals, num_positions = [0.0, 0.0], 0
    for given, slopes in inputs_and_slopes(kind.model, module, kind.inputs):
        for each in given:
            rows = each.reshape(-1, each.shape[-1])
            if isinstance(module, nn.Conv2d):
                names = ("kernel_size", "dilation", "padding", "stride")
                rows = F.unfold(each, **{key: getattr(module, key) for key in names}).mT[0]
            for row in rows:
                num_positions += 1
                for part in row.chunk(getattr(module, "groups", 1)):
                    a = part if module.bias is None else torch.cat([part, part.new_ones(1)])
                    totals[0] = totals[0] + torch.outer(a, a)
        for direction in slopes:
            for slope in direction:
                units = slope[0].flatten(1).mT if isinstance(module, nn.Conv2d) else slope.flatten(0, -2)
                for g in units:
                    totals[1] = totals[1] + torch.outer(g, g)
    groups = getattr(module, "groups", 1)
    within = torch.block_diag(*[torch.ones(len(totals[1]) // groups, len(totals[1]) // groups)] * groups)
    return totals[0] / len(kind.inputs), within * totals[1] / num_positions


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("mlp", "0"),
        ("mlp", "2"),
        ("positions", "2"),
        ("transposed", "2"),
        ("convolutions", "0"),
        ("convolutions", "3"),
        ("convolutions", "6"),
        ("self-attention", "head"),
        ("called-twice", "step"),
        ("convolution-called-twice", "step"),
        ("merged", "map"),
    ],
)
def test_the_factors_are_those_of_explicit_loops(make_kind, name, layer):
    kind = make_kind(name)
    kind.model.eval()
    if (name, layer) == ("convolutions", "6"):
        kind.model[6].padding = (1, 1)  # "same" of a dilated kernel of two, where both sides get one
    a, g = naive_factors(kind, layer)
    found = exactly(kind.model, [kind.inputs[:2], kind.inputs[2:]]).layers[layer]
    torch.testing.assert_close(found.A, a, **TIGHT)
    torch.testing.assert_close(found.G, g, **TIGHT)


def test_one_datum_at_one_position_is_a_kronecker_product():
    """One datum has one pair of inputs and gradients per direction, so the product is exact."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs = torch.randn(1, 4).double()
    whole = whole_ggn(model, inputs)
    found = exactly(model, [inputs])
    order = torch.arange(len(whole))
    first = order[: 5 * 4].view(5, 4), order[20:25].view(5, 1)
    last = order[25 : 25 + 15].view(3, 5), order[40:43].view(3, 1)
    for layer, parts in (("0", first), ("2", last)):
        place = torch.cat(parts, 1).flatten()
        factors = torch.kron(found.layers[layer].output_factor, found.layers[layer].A)
        torch.testing.assert_close(factors, whole[place][:, place], **TIGHT)


@pytest.mark.parametrize("name", ["convolutions", "encoder", "tied", "called-twice", "recurrent"])
def test_sampled_targets_agree_within_standard_errors(make_kind, name):
    kind = make_kind(name)
    exact = exactly(kind.model, [kind.inputs], diagonal=True)
    draws = [estimate(kind.model, [kind.inputs], diagonal=True, seed=seed) for seed in range(150)]
    scores = []
    for parameter, expected in exact.diagonals().items():
        each = torch.stack([draw.diagonals()[parameter] for draw in draws])
        error = each.std(0) / len(draws) ** 0.5
        score = (each.mean(0) - expected) / error.clamp_min(1e-12 + 1e-9 * expected.max())
        assert score.abs().max() < 6
        scores.append(score.flatten())
    assert torch.cat(scores).square().mean() < 3  # about 1, but for entries that depend on each other
    for layer, expected in exact.layers.items():
        each = torch.stack([draw.layers[layer].G for draw in draws])
        error = (each.std(0) / len(draws) ** 0.5).clamp_min(1e-12 + 1e-9 * expected.G.abs().max())
        assert ((each.mean(0) - expected.G) / error).abs().max() < 6
        torch.testing.assert_close(draws[0].layers[layer].A, expected.A, **TIGHT)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", Gaussian(noise=0.5)])
def test_any_likelihood_has_its_curvature(make_kind, likelihood):
    kind = make_kind("convolutions")
    expected = split(kind.model, whole_ggn(kind.model, kind.inputs, likelihood).diagonal())
    found = exactly(kind.model, [kind.inputs], likelihood=likelihood, structure="diagonal").diagonals()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **TIGHT)


def test_tokens_with_a_label_are_data():
    """The squares hold sums over the tokens of a sequence, as the curvature of the whole loss has it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(9, 6), nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), nn.Linear(6, 9)
    )
    model = model.double()
    ids = torch.randint(9, (3, 4))
    labels = ids.clone()
    labels[0, 2:] = labels[2, 0] = -100
    rows = torch.zeros(())
    for example, label in zip(ids, labels, strict=True):
        model.eval()
        derivative, outputs = jacobian(model, example)
        directions = (resolve("categorical").root(outputs).mT @ derivative)[label != -100].flatten(0, 1)
        rows = rows + directions.square().sum(0) / 9
    expected = split(model, rows)
    draws = [estimate(model, [(ids, labels)], structure="diagonal", seed=seed) for seed in range(200)]
    assert draws[0].num_seen == 9
    for name, value in expected.items():
        each = torch.stack([draw.diagonals()[name] for draw in draws])
        error = (each.std(0) / len(draws) ** 0.5).clamp_min(1e-12 + 1e-9 * value.max())
        assert ((each.mean(0) - value) / error).abs().max() < 6
    with pytest.raises(InvalidArgumentError, match=r'got \(batch, 4, 9\); use outputs="sampled"'):
        exactly(model, [ids])


def test_a_gradient_that_cancels_is_no_misreading():
    """Attention does not change with the biases of its keys: their gradients are rounding noise."""
    torch.manual_seed(0)
    model = VisionTransformer((1, 8, 8), depth=2, width=16, num_heads=2)
    batch = read_batch(torch.randn(20, 1, 8, 8), torch.device("cpu"))
    options = {"structure": "kronecker", "with_diagonal": False, "largest_factor": 100}
    plan = make_plan(model.eval(), dict(model.named_parameters()), batch, **options)
    assert plan.slow == set()
    assert "blocks.0.attention.key.weight" in plan.matrices
