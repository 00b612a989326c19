"""Pruning a model once: what goes, what stays, and what is refused."""

import pytest
import torch
from torch import nn

from secateur import Posterior
from secateur.errors import InvalidArgumentError
from secateur.modules import hold, masks_of
from secateur.pruning import prune


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


def test_prune_masks_the_model_and_results():
    model = mlp()
    result = prune(model, posterior_of(model))
    assert result.num_removed > 0
    assert_same(masks_of(model), {name: mask for name, mask in result.masks.items() if not mask.all()})
    zeros = sum(int((model.get_parameter(name) == 0).sum()) for name in result.masks)
    assert zeros == result.num_weights - result.num_kept


@pytest.mark.parametrize("make", [mlp, Nested, Tied])
@pytest.mark.parametrize("granularity", ["weight", "neuron"])
def test_the_output_layer_stays_by_default(make, granularity):
    torch.manual_seed(1)
    model = make()
    posterior = posterior_of(model)
    output = {"mlp": ["4."], "Nested": ["heads.1."], "Tied": ["embed.", "head."]}[make.__name__]
    others = sum(m.numel() for n, m in posterior.mean.items() if not n.startswith(tuple(output)))
    total = sum(mean.numel() for mean in posterior.mean.values())
    result = prune(model, posterior, sparsity=others / total, granularity=granularity)
    for name, mask in result.masks.items():
        assert mask.any() == mask.all() == name.startswith(tuple(output)), name


def test_the_output_layer_goes_when_named_or_alone():
    model = mlp()
    result = prune(model, posterior_of(model), sparsity=0.1, include=["4.*"])
    assert {name for name, mask in result.masks.items() if not mask.all()} <= {"4.weight", "4.bias"}
    alone = nn.Linear(6, 5)
    assert prune(alone, posterior_of(alone), sparsity=0.5).num_removed == round(0.5 * 35)
    wrapped = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5))
    assert prune(wrapped, posterior_of(wrapped), sparsity=0.5).num_removed > 0


def test_excluding_more_still_spares_the_output_layer():
    model = mlp()
    result = prune(model, posterior_of(model), sparsity=0.2, exclude=["0.*"])
    gone = {name for name, mask in result.masks.items() if not mask.all()}
    assert gone <= {"2.weight", "2.bias"}
    with pytest.raises(InvalidArgumentError, match="exclude: expected a list of patterns"):
        prune(mlp(), posterior_of(mlp()), exclude="0.*")


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused(argument):
    model = mlp()
    before = content(model)
    with pytest.raises(InvalidArgumentError, match=f"{argument}: expected patterns .*'fc\\.\\*'"):
        prune(model, posterior_of(model), **{argument: ["0.*", "fc.*"]})
    assert_same(content(model), before)


def test_a_held_model_is_pruned_further():
    model = mlp()
    first = prune(model, posterior_of(model), sparsity=0.3)
    again = posterior_of(model, seed=1)
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
    hold(model, {"0.weight": first})
    posterior = posterior_of(mlp())
    held = Posterior(posterior.mean, posterior.precision, posterior.prior_precision, {"0.weight": second})
    result = prune(model, held, include=["2.*"])
    assert torch.equal(result.masks["0.weight"], first & second)
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
