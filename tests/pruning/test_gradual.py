"""Pruning in steps: as far as the loss allows, held through training, resumable, with warnings."""

import collections
import math
import warnings

import pytest
import torch
from torch import nn

import secateur
from secateur import GradualPruner, Posterior
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.inference import Calibrated, FlatFF
from secateur.modules import held_masks, masks_of
from secateur.posterior import Dense
from secateur.pruning import PruningWarning, Schedule
from secateur.pruning.independent import NUM_HALVINGS


@pytest.fixture
def posterior(generator):
    """A posterior whose evidence would let almost all of 400 weights go, and an output layer."""
    mean = {"a.weight": torch.randn(20, 20, generator=generator) * 0.01, "b.weight": torch.ones(2, 20)}
    return Posterior(
        mean,
        {name: torch.full_like(value, 4.0) for name, value in mean.items()},
        {name: torch.tensor(1.0) for name in mean},
    )


@pytest.fixture
def model(posterior):
    layers = {"a": nn.Linear(20, 20, bias=False), "b": nn.Linear(20, 2, bias=False)}
    model = nn.Sequential(collections.OrderedDict(layers))
    model.load_state_dict(posterior.mean)
    return model


def removed(model):
    return sum(int((parameter == 0).sum()) for parameter in model.parameters())


class Loss:
    """Rises by so much per removed weight; remembers what it was asked."""

    def __init__(self, per_weight: float) -> None:
        self.per_weight, self.asked = per_weight, []

    def __call__(self, model):
        assert not model.training
        self.asked.append(removed(model))
        return 1.0 + self.per_weight * self.asked[-1]


def schedule(max_fraction=0.5, **options):
    return Schedule(first_epoch=1, last_epoch=9, max_fraction=max_fraction, **options)


def test_without_a_rise_the_cap_is_used_in_full(model, posterior):
    loss = Loss(0.0)
    done = GradualPruner(model, posterior, schedule(max_loss_rise=0.1), observe=loss).step()
    assert done.num_removed == removed(model) == 220  # half of 440, output layer counted
    assert loss.asked == [0, 220]
    assert (done.loss_before, done.loss_after) == (1.0, 1.0)


@pytest.mark.parametrize(("most", "taken"), [(250, 220), (219, 110), (60, 55), (27, 27)])
def test_a_rise_too_far_halves_the_removal(model, posterior, most, taken):
    loss = Loss(0.01)
    done = GradualPruner(model, posterior, schedule(max_loss_rise=0.01 * most + 1e-6), observe=loss).step()
    assert done.num_removed == removed(model) == taken
    assert done.loss_after == pytest.approx(1 + 0.01 * taken)
    assert done.masks["b.weight"].all()


def test_after_the_last_halving_it_is_skipped(model, posterior):
    loss = Loss(1.0)
    done = GradualPruner(model, posterior, schedule(max_loss_rise=0.5), observe=loss).step()
    assert done.num_removed == removed(model) == 0
    assert done.loss_after == done.loss_before == 1.0
    assert len(loss.asked) == 2 + NUM_HALVINGS
    assert held_masks(model) == {}


def test_a_loss_that_is_not_finite_is_never_accepted(model, posterior):
    observe = lambda model: math.nan if removed(model) else 1.0  # noqa: E731
    done = GradualPruner(model, posterior, schedule(max_loss_rise=0.5), observe=observe).step()
    assert done.num_removed == 0


def test_small_rises_do_not_add_up(model, posterior):
    """The ceiling hangs from the best loss ever seen, not from the one just before."""
    pruner = GradualPruner(model, posterior, schedule(max_loss_rise=0.25), observe=Loss(0.001))
    pruner.best_loss = 0.8
    assert pruner.step().num_removed == 27
    assert pruner.best_loss == 0.8


def test_by_default_the_evidence_is_trusted(model, posterior):
    assert GradualPruner(model, posterior, schedule(), observe=Loss(1e6)).step().num_removed == 220


def test_without_a_loss_to_observe_nothing_is_claimed_of_it(model, posterior):
    done = GradualPruner(model, posterior, schedule(max_loss_rise=0.1), observe=None).step()
    assert done.num_removed == 220
    assert math.isnan(done.observed_delta_f)
    assert "observed not measured" in str(done)


def test_sparsity_is_capped(model, posterior):
    pruner = GradualPruner(model, posterior, schedule(max_sparsity=0.25), observe=Loss(0))
    assert pruner.step().num_removed == 110
    assert pruner.step().num_removed == 0


def test_a_loss_may_take_the_model_or_nothing(model, posterior):
    found = []
    for observe in (lambda: 1.0 + 0.01 * removed(model), lambda network: 1.0 + 0.01 * removed(network)):
        secateur.modules.release(model)
        model.load_state_dict(posterior.mean)
        done = GradualPruner(model, posterior, schedule(max_loss_rise=0.6), observe=observe).step()
        found.append((done.num_removed, done.loss_after))
    assert found[0] == found[1] == (55, pytest.approx(1.55))


def test_a_target_is_approached_step_by_step_to_the_entry(model, posterior):
    pruner = GradualPruner(
        model, posterior, Schedule(first_epoch=1, last_epoch=4), observe=Loss(0.0), sparsity=0.8, num_data=100
    )
    out = []
    for epoch in range(6):
        if pruner.due(epoch):
            result = pruner.step()
            out.append(removed(model))
    assert out == [round(440 * (1 - 0.2 ** (step / 4))) for step in (1, 2, 3, 4)]
    assert result.sparsity == pytest.approx(0.8)
    assert pruner.removed_delta_f["a.weight"] > 0
    assert pruner.removed_delta_f["b.weight"] == 0


def test_a_target_out_of_reach_is_refused_at_once(model, posterior):
    with pytest.raises(InvalidArgumentError, match="sparsity: expected between"):
        GradualPruner(model, posterior, schedule(), observe=None, sparsity=0.99)


def test_the_observed_evidence_is_that_of_data_and_divergence(model, posterior):
    done = GradualPruner(model, posterior, schedule(), observe=Loss(0.001), num_data=50).step()
    after = posterior.given(done.masks)
    gain = float(posterior.kl_divergence() - after.kl_divergence())
    assert done.observed_delta_f == pytest.approx(-50 * 0.22 + gain)


def test_what_stays_moves_under_a_joint_posterior(generator):
    """The loss is exact for the Gaussian, so its change is the misfit that the evidence predicted."""
    model = nn.Linear(6, 1, bias=False).double()
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    precision = root @ root.T + torch.eye(6, dtype=torch.float64)
    mean = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    block = Dense("", {"weight": mean}, precision, {"weight": one})
    model.load_state_dict({"weight": mean})

    def nats(network):
        away = (network.weight.detach() - mean).reshape(-1)
        return float(0.5 * away @ precision @ away)

    pruner = GradualPruner(
        model,
        Posterior.of([block]),
        Schedule(first_epoch=1, last_epoch=1),
        observe=nats,
        sparsity=0.5,
        include=["weight"],
    )
    result = pruner.step()
    kept = result.masks["weight"]
    assert int(kept.sum()) == 3
    assert (model.weight[~kept] == 0).all()
    expected = block.given(result.masks).point()["weight"]
    torch.testing.assert_close(model.weight.detach(), expected)
    assert not torch.allclose(model.weight[kept], mean[kept])
    plain = (torch.where(kept, mean, 0.0) - mean).reshape(-1)
    assert result.loss_after < 0.5 * plain @ precision @ plain  # zeros alone would have cost more
    assert result.loss_after == pytest.approx(nats(model))


class TestOwnLoop:
    """The README's loop: any optimizer over posteriors, masks held in model and optimizer alike."""

    @pytest.fixture
    def trained(self, generator):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
        x = torch.randn(64, 6, generator=generator)
        y = (x[:, 0] > 0).long()
        optimizer = Calibrated(
            model.named_parameters(), lr=1e-2, num_data=64, hessian_rate=0.1, generator=torch.Generator()
        )

        def train(steps):
            for _ in range(steps):
                with optimizer.sampled_parameters():
                    loss = nn.functional.cross_entropy(model(x), y)
                    optimizer.zero_grad()
                    loss.backward()
                optimizer.step()

        def observe():
            return float(nn.functional.cross_entropy(model(x), y).detach())

        return model, optimizer, train, observe

    def test_masks_hold_through_later_steps(self, trained):
        model, optimizer, train, observe = trained
        pruner = GradualPruner(model, optimizer, schedule(), observe=observe, sparsity=0.5)
        train(30)
        result = pruner.step()
        assert 0 < result.num_removed == removed(model)
        train(10)
        assert removed(model) == result.num_removed
        assert masks_of(model).keys() == {name for name, mask in result.masks.items() if not mask.all()}
        again = pruner.step()
        assert again.num_kept == result.num_kept - again.num_removed

    def test_resuming_goes_on_bit_for_bit(self, trained):
        model, optimizer, train, observe = trained
        pruner = GradualPruner(model, optimizer, schedule(), observe=observe, sparsity=0.5)
        train(30)
        pruner.step()
        train(5)
        saved = (
            {name: value.clone() for name, value in model.state_dict().items()},
            optimizer.state_dict(),
            pruner.state_dict(),
        )
        train(5)
        first = pruner.step()
        after = {name: value.clone() for name, value in model.state_dict().items()}
        secateur.modules.release(model)
        for part, state in zip((model, optimizer), saved[:2], strict=True):
            part.load_state_dict(state)
        resumed = GradualPruner(model, optimizer, schedule(), observe=observe, sparsity=0.5)
        resumed.load_state_dict(saved[2])
        assert held_masks(model).keys() == saved[2]["masks"].keys()
        train(5)
        second = resumed.step()
        assert second.predicted_delta_f == first.predicted_delta_f
        assert all(torch.equal(after[name], value) for name, value in model.state_dict().items())
        assert resumed.state_dict()["best_loss"] == pruner.state_dict()["best_loss"]

    def test_a_foreign_state_is_refused(self, trained):
        model, optimizer, _, observe = trained
        pruner = GradualPruner(model, optimizer, schedule(), observe=observe)
        with pytest.raises(ArtifactError, match="expected 'best_loss', got none"):
            pruner.load_state_dict({"num_steps": 1})
        state = pruner.state_dict() | {"masks": {"conv.weight": torch.ones(3, dtype=torch.bool)}}
        with pytest.raises(ArtifactError, match="expected that of this network"):
            pruner.load_state_dict(state)

    def test_pruning_before_the_curvature_means_anything_warns(self, trained):
        model, optimizer, train, observe = trained
        train(2)
        pruner = GradualPruner(model, optimizer, schedule(max_loss_rise=0.5), observe=observe)
        with pytest.warns(PruningWarning, match="curvature has settled.*start later"):
            pruner.step()
        train(20)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pruner.step()

    def test_plain_optimizers_are_refused_with_the_remedy(self, trained):
        model, _, _, observe = trained
        with pytest.raises(InvalidArgumentError, match="got AdamW; train with secateur"):
            GradualPruner(model, torch.optim.AdamW(model.parameters()), schedule(), observe=observe)

    def test_a_function_gives_the_posterior_of_a_plain_loop(self, trained):
        model, optimizer, train, observe = trained
        train(30)
        calls = []

        def posterior():
            calls.append(removed(model))
            return optimizer.posterior()

        pruner = GradualPruner(model, posterior, schedule(), observe=observe, sparsity=0.5)
        first = pruner.step()
        second = pruner.step()
        assert calls == [0, first.num_removed]
        assert removed(model) == first.num_removed + second.num_removed


@pytest.mark.parametrize("bias", [False, True], ids=["whole", "all-but-its-bias"])
def test_a_layer_that_dies_is_named(bias):
    model = nn.Sequential(
        collections.OrderedDict(a=nn.Linear(3, 3, bias=bias), b=nn.Linear(3, 2, bias=False))
    )
    mean = {name: torch.ones_like(value) for name, value in model.state_dict().items()}
    mean["a.weight"] = torch.zeros(3, 3)
    model.load_state_dict(mean)
    precision = {name: torch.full_like(value, 50.0) for name, value in mean.items()}
    given = Posterior(mean, precision, dict.fromkeys(mean, torch.tensor(1.0)))
    with pytest.warns(PruningWarning, match="^a.weight: expected a layer to keep some weights, got none"):
        GradualPruner(model, given, schedule(1.0), observe=None).step()
    if bias:
        assert model.get_parameter("a.bias").all()


class TestBatchNorm:
    @pytest.fixture
    def normed(self, generator):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        x = torch.randn(50, 6, generator=generator)
        secateur.modules.reestimate(model, x)
        mean = {name: value.detach().clone() for name, value in model.named_parameters()}
        precision = {name: torch.full_like(value, 4.0) for name, value in mean.items()}
        return model, x, Posterior(mean, precision, dict.fromkeys(mean, torch.tensor(1.0)))

    def test_moments_that_no_longer_fit_warn_once(self, normed):
        model, _, posterior = normed
        pruner = GradualPruner(model, posterior, schedule(0.2), observe=None)
        with pytest.warns(PruningWarning, match="batch normalisation: .* calibration=inputs"):
            pruner.step()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pruner.step()

    def test_with_inputs_they_are_taken_anew_for_every_look_and_for_good(self, normed):
        model, x, posterior = normed
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        looks = []

        def observe(network):
            looks.append(network[1].running_mean.clone())
            return 1.0

        GradualPruner(model, posterior, schedule(0.4), observe=observe, calibration=x).step()
        inputs = model[0](x).detach()
        torch.testing.assert_close(looks[0], before["1.running_mean"])
        torch.testing.assert_close(looks[1], inputs.mean(0))
        torch.testing.assert_close(model[1].running_mean, inputs.mean(0))
        assert not torch.allclose(looks[0], looks[1])


@pytest.fixture
def optimizer():
    """A posterior of two layers, neither of which the data have said much of."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4))
    optimizer = FlatFF(model.named_parameters(), lr=1e-2, num_data=100, adaptive=True)
    prior = {
        name: each.expand(optimizer.posterior().mean[name].shape)
        for name, each in optimizer.posterior().prior_precision.items()
    }
    mean = {name: 1e-3 * each.rsqrt() for name, each in prior.items()}
    optimizer.adopt(Posterior(mean, {name: 1.02 * each for name, each in prior.items()}, prior))
    return optimizer


class LossOfLayers:
    """Rises where a layer's prior is narrower than it was; remembers which were."""

    def __init__(self, optimizer, rise) -> None:
        self.optimizer, self.rise, self.asked = optimizer, rise, []
        self.wide = self.widths()

    def widths(self):
        prior = self.optimizer.posterior().prior_precision
        return {
            name.partition(".")[0]: float(each.mean()) for name, each in prior.items() if "weight" in name
        }

    def __call__(self):
        narrowed = frozenset(
            layer for layer, width in self.widths().items() if width > 1.01 * self.wide[layer]
        )
        self.asked.append(narrowed)
        return 1.0 + sum(self.rise[layer] for layer in narrowed)


@pytest.mark.parametrize(
    ("rise", "accepted"),
    [
        ({"0": 0.0, "2": 0.0}, {"0", "2"}),
        ({"0": 0.3, "2": 0.0}, {"2"}),
        ({"0": 0.0, "2": math.nan}, {"0"}),
        ({"0": 0.3, "2": 0.3}, set()),
        ({"0": 0.15, "2": 0.15}, {"0"}),  # each alone would do
    ],
)
def test_priors_shrink_in_those_layers_whose_loss_allows_it(optimizer, rise, accepted):
    before = optimizer.posterior()
    loss = LossOfLayers(optimizer, rise)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    pruner = GradualPruner(
        model,
        optimizer,
        schedule(max_loss_rise=0.2),
        observe=loss,
        hyperprior="tiered",
        include=["*"],
    )
    done = pruner.step()
    after = optimizer.posterior()
    assert loss.asked[1] == {"0", "2"}  # all at once comes first
    assert len(loss.asked) == (2 if accepted == {"0", "2"} else 5)
    assert loss.asked[-1] == accepted
    assert (done.loss_before, done.loss_after) == (
        1.0,
        pytest.approx(1 + sum(rise[each] for each in accepted)),
    )
    for name, mean in before.mean.items():
        if name.partition(".")[0] not in accepted:
            torch.testing.assert_close(after.mean[name], mean)
            torch.testing.assert_close(after.precision[name], before.precision[name])
