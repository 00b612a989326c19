"""Units are found as the network couples them; units go where the evidence favours it, and no others."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from secateur import Posterior, networks
from secateur.compaction import plain_copy
from secateur.compaction.units import find_units
from secateur.errors import InvalidArgumentError
from secateur.export.measure import num_macs
from secateur.modules import hold, masks_of
from secateur.pruning import compact, prune_units
from secateur.pruning.unit_evidence import uses_of_weights
from secateur.reduction import delta_f

PRIOR = 0.3


def posterior_of(model: nn.Module, *, precision: float = 50.0) -> Posterior:
    mean = {name: p.detach().clone() for name, p in model.named_parameters()}
    return Posterior(
        mean,
        {name: torch.full_like(m, precision) for name, m in mean.items()},
        {name: torch.tensor(PRIOR) for name in mean},
    )


def mlp() -> nn.Sequential:
    """Eight hidden units; of four, a single weight is far from zero on either side, the others' are all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight.copy_(torch.where(layer.weight > 0, 1.0, -1.0) * (0.8 + layer.weight.abs()))
            layer.bias.fill_(0.5)
        model[0].weight[:4] *= 0.02
        model[0].bias[:4] *= 0.02
        model[2].weight[:, :4] *= 0.02
    return model


class TestUnits:
    @pytest.mark.parametrize(
        ("name", "kinds"),
        [
            ("mlp", {"neuron": 2000}),
            ("lenet", {"channel": 6 + 16 + 120, "neuron": 84}),
            ("vit-small", {"neuron": 4 * 128, "head": 4 * 4}),
            ("mlp-mixer-small", {"neuron": 4 * (64 + 128)}),
            ("resnet20", {"channel": 3 * (16 + 32 + 64) + 16 + 16 + 32}),
        ],
    )
    def test_are_those_of_the_architecture(self, name, kinds):
        size = networks.image_size(name) or 28
        model = networks.build(name, image_shape=(1, size, size), num_classes=10, seed=0)
        units = find_units(model, torch.zeros(1, 1, size, size))
        assert {kind: units.kind.count(kind) for kind in set(units.kind)} == kinds
        shapes = {key: p.shape for key, p in model.named_parameters()}
        for axis in units.axes:
            assert shapes[axis.parameter][axis.axis] == len(axis.unit)

    def test_of_a_sum_are_one(self):
        class Residual(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

            def forward(self, x):
                x = self.first(x)
                return self.last(x + self.second(x.relu()))

        units = find_units(Residual(), torch.zeros(1, 3))
        assert units.layer == ("first",) * 4
        assert {a.parameter for a in units.axes if a.produces and a.axis == 0} >= {
            "first.bias",
            "second.bias",
        }

    def test_none_where_nothing_can_be_traced(self):
        class Branching(nn.Module):
            def forward(self, x):
                return x if x.sum() > 0 else -x

        assert len(find_units(Branching(), torch.zeros(1, 3))) == 0


def test_units_without_evidence_go_whole_and_compact_finds_them():
    model = mlp()
    posterior, x = posterior_of(model), torch.randn(7, 5)
    result = prune_units(model, posterior, x, reduce_again=False)
    assert result.units_before == {"0": 8, "2": 6}
    assert result.units_after == {"0": 4, "2": 6}
    masks = masks_of(model)
    assert not masks["0.weight"][:4].any()
    assert not masks["0.bias"][:4].any()
    assert not masks["2.weight"][:, :4].any()
    assert masks["0.weight"][4:].all()
    assert "2.bias" not in masks
    small = compact(model, x)
    assert small.get_submodule("0").out_features == 4
    torch.testing.assert_close(small(x), model(x))


def test_predicted_evidence_counts_every_weight_once():
    model = mlp()
    posterior = posterior_of(model)
    result = prune_units(model, posterior, torch.zeros(1, 5), price=20.0)
    expected = 0.0
    for name, mask in result.masks.items():
        each = delta_f(posterior.mean[name], posterior.precision[name], prior_precision=torch.tensor(PRIOR))
        expected += float(each[~mask].sum())
    assert result.predicted_delta_f == pytest.approx(expected, rel=1e-5)
    assert result.num_removed == sum(int((~mask).sum()) for mask in result.masks.values())


def test_a_price_lets_more_units_go_but_never_all_of_a_layer():
    kept = []
    for price in (0.0, 160.0, 1e9):
        result = prune_units(mlp(), posterior_of(mlp()), torch.zeros(1, 5), price=price, reduce_again=False)
        kept.append(sum(result.units_after.values()))
    assert kept[0] > kept[1] > kept[2] == 2


def test_weights_that_nothing_reads_go_too():
    model = mlp()
    posterior = posterior_of(model)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[:, 2] = False
    hold(model, {"4.weight": mask})
    prune_units(model, posterior, torch.zeros(1, 5), kinds=("channel",), reduce_again=False)
    assert not masks_of(model)["2.weight"][2].any()
    assert masks_of(model)["2.weight"][3].all()


def test_what_is_left_is_reduced_again():
    model = mlp()
    with torch.no_grad():
        model[2].weight[0, 5] = 0.0
    result = prune_units(model, posterior_of(model), torch.zeros(1, 5))
    assert result.trace[-1].num_units == 0
    assert not masks_of(model)["2.weight"][0, 5]
    assert "4.weight" not in masks_of(model)  # the output layer stays


class TestObservedLoss:
    @staticmethod
    def setup():
        model = mlp()
        x = torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
        labels = model(x).argmax(1)
        return model, posterior_of(model), x, lambda network: float(cross_entropy(network(x), labels))

    @pytest.mark.parametrize("rise", [0.0, 0.1, 1.0])
    def test_bounds_what_goes(self, rise):
        model, posterior, x, loss = self.setup()
        with torch.no_grad():
            before = loss(model)
        result = prune_units(model, posterior, x, price=math.inf, observe=loss, max_loss_rise=rise)
        with torch.no_grad():
            after = loss(model)
        assert after <= before + rise + 1e-6
        if result.trace:
            assert result.loss_before == pytest.approx(before)
            assert result.trace[-1].loss == pytest.approx(after)
        if rise == 1.0:
            assert sum(result.units_after.values()) < 10

    def test_a_higher_bound_lets_more_go(self):
        left = []
        for rise in (0.0, 0.3, 3.0):
            model, posterior, x, loss = self.setup()
            result = prune_units(model, posterior, x, price=math.inf, observe=loss, max_loss_rise=rise)
            left.append(sum(result.units_after.values()))
        assert left[0] >= left[1] >= left[2]
        assert left[0] > left[2]

    def test_a_loss_that_is_not_finite_is_no_licence(self):
        model, posterior, x, _ = self.setup()
        first = iter([0.3])
        result = prune_units(model, posterior, x, price=9.0, observe=lambda _: next(first, math.nan))
        assert result.trace == ()
        assert not masks_of(model)


def test_ranked_by_operations_the_costly_units_go_first():
    def network():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3),
            nn.ReLU(),
            nn.MaxPool2d(7),
            nn.Flatten(),
            nn.Linear(24, 6),
            nn.ReLU(),
            nn.Linear(6, 3),
        )

    x = torch.zeros(1, 1, 16, 16)
    assert uses_of_weights(network(), x) == {"0.weight": 14 * 14, "4.weight": 1, "6.weight": 1}
    left = {}
    for cost in ("unit", "multiply-adds"):
        model = network()

        def share_out(trial):
            return sum(int((p == 0).sum()) for p in trial.parameters()) / 237

        options = {"observe": share_out, "max_loss_rise": 0.5, "max_fraction": 0.1, "reduce_again": False}
        posterior = posterior_of(model, precision=1e4)
        left[cost] = prune_units(model, posterior, x, price=math.inf, cost=cost, **options).units_after
    assert left["multiply-adds"]["0"] < left["unit"]["0"]
    assert left["multiply-adds"]["4"] > left["unit"]["4"]


class TestAShareOfMultiplyAdds:
    def left(self, model, masks, x):
        hold(model, masks)
        return num_macs(compact(model, x), (x[:1],))

    @pytest.mark.parametrize("share", [0.7, 0.4])
    def test_is_met_with_the_last_unit(self, share):
        model, x = (
            networks.build("lenet", image_shape=(1, 32, 32), num_classes=3, seed=0),
            torch.zeros(2, 1, 32, 32),
        )
        whole = num_macs(model, (x[:1],))
        result = prune_units(
            model, posterior_of(model), x, kinds=("channel",), multiply_adds=share, reduce_again=False
        )
        got = self.left(copy.deepcopy(model), result.masks, x) / whole
        # One channel of the first convolution costs at most a sixth of it and of the second.
        assert share - 0.15 < got <= share
        assert result.units_after["dense"] == result.units_before["dense"] == 84
        assert len(result.trace) > 1

    def test_ends_where_the_loss_says_so(self):
        model, x = mlp(), torch.zeros(1, 5)

        def share_out(trial):
            return sum(int((p == 0).sum()) for p in trial.parameters()) / 123

        options = {"observe": share_out, "max_loss_rise": 0.2, "reduce_again": False}
        result = prune_units(model, posterior_of(model), x, multiply_adds=0.1, **options)
        assert share_out(plain_copy(model)) <= 0.2
        assert 0 < result.num_units_removed < 10

    def test_that_is_there_already_removes_nothing(self):
        model = mlp()
        result = prune_units(
            model, posterior_of(model), torch.zeros(1, 5), multiply_adds=1.0, reduce_again=False
        )
        assert result.trace == ()


def test_layers_may_be_left_alone():
    model = networks.build("resnet20", image_shape=(3, 32, 32), num_classes=4, seed=0).eval()
    options = {"kinds": ("channel",), "multiply_adds": 0.6, "reduce_again": False}
    result = prune_units(
        model, posterior_of(model), torch.zeros(2, 3, 32, 32), exclude=["conv1", "*.conv2"], **options
    )
    fewer = {name for name, count in result.units_after.items() if count < result.units_before[name]}
    assert fewer
    assert all(name.endswith(".conv1") for name in fewer)
    with pytest.raises(InvalidArgumentError, match="exclude: expected a list of patterns"):
        prune_units(mlp(), posterior_of(mlp()), torch.zeros(1, 5), exclude="conv1")


def test_heads_go_whole():
    model = networks.build("vit-small", image_shape=(1, 32, 32), num_classes=4, seed=0).eval()
    with torch.no_grad():
        for part in ("query", "key", "value"):
            layer = model.get_submodule(f"blocks.0.attention.{part}")
            layer.weight[:16] *= 1e-3
            layer.bias[:16] = 0
        model.blocks[0].attention.projection.weight[:, :16] *= 1e-3
    x = torch.randn(2, 1, 32, 32)
    expected = model(x)
    posterior = posterior_of(model, precision=1e4)
    result = prune_units(model, posterior, x, kinds=("head",), reduce_again=False)
    assert result.units_after == result.units_before | {"blocks.0.attention.query": 3}
    small = compact(model, x)
    assert small.get_submodule("blocks.0.attention.value").out_features == 48
    torch.testing.assert_close(small(x), expected, rtol=1e-3, atol=1e-3)


def test_a_channel_goes_with_its_normalisation():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)
    ).eval()
    with torch.no_grad():
        model[1].bias.fill_(0.7)
        model[0].weight[1] *= 1e-3
        model[3].weight[:, 1] *= 1e-3
    result = prune_units(
        model, posterior_of(model, precision=1e4), torch.zeros(2, 1, 8, 8), reduce_again=False
    )
    assert result.units_after == {"0": 3}
    assert (
        masks_of(model)["1.weight"].tolist()
        == masks_of(model)["1.bias"].tolist()
        == [True, False, True, True]
    )
    x = torch.randn(2, 1, 8, 8)
    small = compact(model, x)
    assert small.get_submodule("0").out_channels == 3
    torch.testing.assert_close(small(x), model(x))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kinds": ("filter",)}, "kinds"),
        ({"cost": "seconds"}, "cost"),
        ({"price": -1.0}, "price"),
        ({"price": math.inf}, "price"),
        ({"max_loss_rise": -0.1}, "max_loss_rise"),
        ({"max_fraction": 0.0}, "max_fraction"),
        ({"multiply_adds": 0.0}, "multiply_adds"),
        ({"multiply_adds": 1.5}, "multiply_adds"),
    ],
)
def test_arguments_out_of_range(options, said):
    model = mlp()
    with pytest.raises(InvalidArgumentError, match=f"{said}: expected"):
        prune_units(model, posterior_of(model), torch.zeros(1, 5), **options)
    assert not masks_of(model)


def test_a_point_estimate_and_a_foreign_posterior_are_refused():
    model = mlp()
    with pytest.raises(InvalidArgumentError, match="point estimate"):
        prune_units(model, posterior_of(model, precision=math.inf), torch.zeros(1, 5))
    other = copy.deepcopy(model)
    other[0] = nn.Linear(5, 9)
    with pytest.raises(
        InvalidArgumentError, match=r"posterior: expected parameters of the model, got '0\.weight'"
    ):
        prune_units(model, posterior_of(other), torch.zeros(1, 5))
