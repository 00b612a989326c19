"""Masks on a model: what they touch, what they leave, and that they hold."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from secateur import Posterior
from secateur.errors import InvalidArgumentError
from secateur.pruning import apply_masks, masks_of, output_layer, prune


class Nested(nn.Module):
    """Parameters at the root, in nested modules, and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(4, 6))
        self.body = nn.ModuleDict({"deep": nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 4)))})
        self.heads = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body["deep"](x) + x @ self.gain.T
        return self.heads[1](self.heads[0](x).tanh())


class Tied(nn.Module):
    """An embedding that is also the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.middle = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.embed(tokens)).tanh())


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


def posterior_of(model: nn.Module, seed: int = 0) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    mean = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    precision = {name: 5 + 100 * torch.rand(value.shape, generator=generator) for name, value in mean.items()}
    return Posterior(mean, precision, {name: torch.tensor(3.0) for name in mean})


def content(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def attribute(model: nn.Module, name: str) -> torch.Tensor:
    module, _, last = name.rpartition(".")
    return getattr(model.get_submodule(module), last)


# Applying ------------------------------------------------------------------------------------------------


def test_masks_are_torchs_and_read_back():
    model = Nested()
    masks = {
        "gain": torch.rand(4, 6) > 0.5,
        "body.deep.1.0.weight": torch.rand(4, 6) > 0.5,
        "heads.0.bias": torch.tensor([True, False, True, True]),
        "heads.1.weight": torch.ones(2, 4, dtype=torch.bool),
    }
    apply_masks(model, masks)
    masked = {name: mask for name, mask in masks.items() if not mask.all()}
    assert_same(masks_of(model), masked)
    assert torch_prune.is_pruned(model)
    assert isinstance(model.heads[1].weight, nn.Parameter), "a mask that removes nothing leaves it as it is"
    for name, mask in masked.items():
        assert (attribute(model, name)[~mask] == 0).all()
        assert (attribute(model, f"{name}_orig")[~mask] == 0).all()
    torch_prune.remove(model.heads[0], "bias")
    assert model.heads[0].bias[1] == 0


def test_what_is_out_stays_out():
    model = mlp()
    first, second = torch.rand(8, 5) > 0.4, torch.rand(8, 5) > 0.4
    apply_masks(model, {"0.weight": first})
    apply_masks(model, {"0.weight": second.float()})
    assert torch.equal(masks_of(model)["0.weight"], first & second)
    assert (model[0].weight[~(first & second)] == 0).all()
    apply_masks(model, {"0.weight": torch.ones(8, 5)})
    assert torch.equal(masks_of(model)["0.weight"], first & second)


def test_masks_hold_through_training_with_any_optimizer():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    inputs = torch.randn(20, 5)

    def step():
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()

    step()  # momentum that would carry removed weights on
    masks = {"0.weight": torch.rand(8, 5) > 0.5, "2.bias": torch.rand(6) > 0.5}
    apply_masks(model, masks)
    before = model[0].weight.detach().clone()
    for _ in range(3):
        step()
    model(inputs)
    for name, mask in masks.items():
        assert (attribute(model, name)[~mask] == 0).all()
    assert not torch.equal(model[0].weight, before)
    again = mlp()
    apply_masks(again, {name: torch.zeros_like(mask) for name, mask in masks.items()})
    again.load_state_dict(model.state_dict())
    assert_same(masks_of(again), masks)


def test_masks_travel_with_a_copy():
    model = mlp()
    apply_masks(model, {"0.weight": torch.rand(8, 5) > 0.5})
    twin = copy.deepcopy(model)
    assert_same(masks_of(twin), masks_of(model))
    apply_masks(twin, {"0.weight": torch.zeros(8, 5)})
    assert masks_of(model)["0.weight"].any()


def test_tied_weights_are_masked_wherever_they_are_used():
    model = Tied()
    mask = torch.rand(7, 5) > 0.5
    apply_masks(model, {"embed.weight": mask})
    tokens = torch.arange(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), tokens).backward()
        optimizer.step()
    model(tokens)
    assert (model.embed.weight[~mask] == 0).all()
    assert (model.head.weight[~mask] == 0).all()
    assert model.embed.weight_orig is model.head.weight_orig
    tighter = torch.rand(7, 5) > 0.5
    apply_masks(model, {"head.weight": tighter})
    assert torch.equal(masks_of(model)["embed.weight"], mask & tighter)
    assert torch.equal(masks_of(model)["head.weight"], mask & tighter)


def test_attention_learns_through_its_masked_output_projection():
    """It reads the projection's weight without calling the projection, whose hooks would apply the mask."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    inputs = torch.randn(3, 4, 8)
    mask = torch.rand(8, 8) > 0.5
    apply_masks(attention, {"out_proj.weight": mask, "in_proj_weight": torch.rand(24, 8) > 0.5})
    apply_masks(attention, {"out_proj.weight": mask})
    assert len(attention._forward_pre_hooks) == 2  # the in-projection's mask, and one refresh
    with torch.no_grad():
        attention.out_proj.weight_orig += 1.0
    attention(inputs, inputs, inputs)[0].sum().backward()
    assert torch.equal(attention.out_proj.weight, attention.out_proj.weight_orig * mask)
    assert (attention.out_proj.weight_orig.grad[mask] != 0).all()
    assert (attention.out_proj.weight_orig.grad[~mask] == 0).all()
    attention.eval()
    with torch.no_grad():
        attention.out_proj.weight_orig.fill_(0.0)
        attention.out_proj.bias.fill_(2.0)
        assert (attention(inputs, inputs, inputs)[0] == 2).all()
    torch_prune.remove(attention.out_proj, "weight")
    attention(inputs, inputs, inputs)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"0.weight": torch.zeros(8, 5), "7.weight": torch.zeros(2)}, "expected names .*, got '7.weight'"),
        ({"0.weight": torch.zeros(8, 5), "0.wait": torch.zeros(8, 5)}, "expected names .*, got '0.wait'"),
        ({"0.weight": torch.zeros(8, 5), "2.bias": torch.zeros(8)}, r"expected shape \(6,\), got \(8,\)"),
    ],
)
def test_wrong_masks_leave_the_model_unchanged(masks, message):
    model = mlp()
    before = content(model)
    with pytest.raises(InvalidArgumentError, match=message):
        apply_masks(model, masks)
    assert_same(content(model), before)


# Pruning -------------------------------------------------------------------------------------------------


def test_prune_masks_the_model_and_reports():
    model = mlp()
    report = prune(model, posterior_of(model))
    assert report.num_removed > 0
    assert_same(masks_of(model), {name: mask for name, mask in report.masks.items() if not mask.all()})
    zeros = sum(int((attribute(model, name) == 0).sum()) for name in report.masks)
    assert zeros == report.num_weights - report.num_kept


@pytest.mark.parametrize("make", [mlp, Nested, Tied])
@pytest.mark.parametrize("granularity", ["weight", "neuron"])
def test_the_output_layer_stays_by_default(make, granularity):
    torch.manual_seed(1)
    model = make()
    posterior = posterior_of(model)
    output = {"mlp": ["4."], "Nested": ["heads.1."], "Tied": ["embed.", "head."]}[make.__name__]
    others = sum(m.numel() for n, m in posterior.mean.items() if not n.startswith(tuple(output)))
    total = sum(mean.numel() for mean in posterior.mean.values())
    report = prune(model, posterior, sparsity=others / total, granularity=granularity)
    for name, mask in report.masks.items():
        assert mask.any() == mask.all() == name.startswith(tuple(output)), name


def test_the_output_layer_goes_when_named_or_alone():
    model = mlp()
    report = prune(model, posterior_of(model), sparsity=0.1, include=["4.*"])
    assert {name for name, mask in report.masks.items() if not mask.all()} <= {"4.weight", "4.bias"}
    alone = nn.Linear(6, 5)
    assert prune(alone, posterior_of(alone), sparsity=0.5).num_removed == round(0.5 * 35)
    wrapped = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5))
    assert prune(wrapped, posterior_of(wrapped), sparsity=0.5).num_removed > 0


def test_excluding_more_still_spares_the_output_layer():
    model = mlp()
    report = prune(model, posterior_of(model), sparsity=0.2, exclude=["0.*"])
    gone = {name for name, mask in report.masks.items() if not mask.all()}
    assert gone <= {"2.weight", "2.bias"}
    with pytest.raises(InvalidArgumentError, match="exclude: expected a list of patterns"):
        prune(mlp(), posterior_of(mlp()), exclude="0.*")


@pytest.mark.parametrize("renamed", [False, True], ids=["names-before", "names-after"])
def test_a_masked_model_is_pruned_further(renamed):
    """A posterior may come from an optimiser built before masking, or one built after (`weight_orig`)."""
    model = mlp()
    first = prune(model, posterior_of(model), sparsity=0.3)
    plain = {f"{name}_orig": name for name in masks_of(model)}
    again = posterior_of(model, seed=1)
    if not renamed:
        parts = (again.mean, again.precision, again.prior_precision)
        again = Posterior(*({plain.get(n, n): v for n, v in part.items()} for part in parts))
    second = prune(model, again, sparsity=0.5)
    assert second.masks.keys() == first.masks.keys()
    assert second.sparsity == pytest.approx(0.5, abs=1 / second.num_weights)
    assert second.num_removed == first.num_kept - second.num_kept
    for name, mask in first.masks.items():
        assert not (second.masks[name] & ~mask).any()
    assert prune(model, again, sparsity=0.5).num_removed == 0


def test_the_posteriors_and_the_models_masks_count_together():
    model = mlp()
    first, second = torch.rand(8, 5) > 0.5, torch.rand(8, 5) > 0.5
    apply_masks(model, {"0.weight": first})
    posterior = posterior_of(mlp())
    held = Posterior(posterior.mean, posterior.precision, posterior.prior_precision, {"0.weight": second})
    report = prune(model, held, include=["2.*"])
    assert torch.equal(report.masks["0.weight"], first & second)
    assert torch.equal(masks_of(model)["0.weight"], first & second)


def test_errors_leave_the_model_unchanged():
    model = mlp()
    before = content(model)
    foreign = posterior_of(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 2), nn.Linear(2, 2)))
    for posterior, options in (
        (foreign, {}),
        (posterior_of(model), {"sparsity": 0.999}),
        (posterior_of(model), {"granularity": "head"}),
    ):
        with pytest.raises(InvalidArgumentError):
            prune(model, posterior, **options)
        assert_same(content(model), before)
        assert masks_of(model) == {}


def test_transposed_convolutions_have_no_output_rows():
    model = nn.Sequential(nn.ConvTranspose2d(3, 3, 2), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(InvalidArgumentError, match="transposed convolution 0; exclude it"):
        prune(model, posterior_of(model), granularity="channel")
    prune(model, posterior_of(model))


def test_output_layer_is_the_last_with_a_matrix():
    assert output_layer(mlp()) == "4"
    assert output_layer(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))) == "0"
    assert output_layer(nn.Linear(2, 2)) == ""
    assert output_layer(nn.LayerNorm(2)) is None
    model = mlp()
    prune(model, posterior_of(model), include=["4.*"], sparsity=0.05)
    assert output_layer(model) == "4"
