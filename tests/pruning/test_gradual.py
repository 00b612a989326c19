"""A reduction goes as far as the data bear it out: cut back where the loss rises, skipped where it must."""

import itertools
import math

import pytest
import torch

from secateur import Posterior
from secateur.data import Split
from secateur.errors import InvalidArgumentError
from secateur.inference import FlatFF, FlatMAP
from secateur.pruning import Schedule
from secateur.training.loop import Trainer
from secateur.training.recipe import Recipe
from secateur.training.reduction_step import NUM_HALVINGS, reduce_within, shrink_priors


@pytest.fixture
def posterior(generator):
    """A posterior whose evidence would let almost all of 400 weights go, and an output layer."""
    mean = {"a.weight": torch.randn(20, 20, generator=generator) * 0.01, "b.weight": torch.ones(2, 20)}
    return Posterior(
        mean,
        {name: torch.full_like(value, 4.0) for name, value in mean.items()},
        {name: torch.tensor(1.0) for name in mean},
    )


def removed(masks):
    return sum(int((~mask).sum()) for mask in masks.values())


class Loss:
    """Rises by so much per removed weight; remembers what it was asked."""

    def __init__(self, per_weight: float) -> None:
        self.per_weight, self.asked = per_weight, []

    def __call__(self, masks):
        self.asked.append(removed(masks))
        return 1.0 + self.per_weight * self.asked[-1]


def schedule(max_fraction=0.5, **options):
    return Schedule(first_epoch=1, last_epoch=9, max_fraction=max_fraction, **options)


def test_without_a_rise_the_cap_is_used_in_full(posterior):
    loss = Loss(0.0)
    done = reduce_within(posterior, schedule(max_loss_rise=0.1), loss, best_loss=math.inf, exclude=["b.*"])
    assert done.report.num_removed == 220  # half of 440, output layer counted
    assert loss.asked == [0, 220]
    assert (done.loss_before, done.loss_after) == (1.0, 1.0)


@pytest.mark.parametrize(("bearable", "taken"), [(250, 220), (219, 110), (60, 55), (27, 27)])
def test_a_rise_too_far_halves_the_removal(posterior, bearable, taken):
    loss = Loss(0.01)
    done = reduce_within(
        posterior, schedule(max_loss_rise=0.01 * bearable + 1e-6), loss, best_loss=math.inf, exclude=["b.*"]
    )
    assert done.report.num_removed == removed(done.report.masks) == taken
    assert done.loss_after == pytest.approx(1 + 0.01 * taken)
    assert done.report.masks["b.weight"].all()


def test_after_the_last_halving_it_is_skipped(posterior):
    loss = Loss(1.0)
    done = reduce_within(posterior, schedule(max_loss_rise=0.5), loss, best_loss=math.inf, exclude=["b.*"])
    assert done.report.num_removed == removed(done.report.masks) == 0
    assert done.loss_after == done.loss_before == 1.0
    assert len(loss.asked) == 2 + NUM_HALVINGS


def test_a_loss_that_is_not_finite_is_never_accepted(posterior):
    done = reduce_within(
        posterior,
        schedule(max_loss_rise=0.5),
        lambda masks: float("nan") if removed(masks) else 1.0,
        best_loss=math.inf,
        exclude=["b.*"],
    )
    assert done.report.num_removed == 0


def test_small_rises_do_not_add_up(posterior):
    """The ceiling hangs from the best loss ever seen, not from the one just before."""
    loss = Loss(0.001)
    options = {"exclude": ["b.*"]}
    free = reduce_within(posterior, schedule(max_loss_rise=0.25), loss, best_loss=1.0, **options)
    tight = reduce_within(posterior, schedule(max_loss_rise=0.25), loss, best_loss=0.8, **options)
    assert free.report.num_removed == 220
    assert tight.report.num_removed == 27


def test_by_default_the_evidence_is_trusted(posterior):
    done = reduce_within(posterior, schedule(), Loss(1e6), best_loss=0.0, exclude=["b.*"])
    assert done.report.num_removed == 220


def test_sparsity_is_capped(posterior):
    done = reduce_within(posterior, schedule(max_sparsity=0.25), Loss(0), best_loss=1.0, exclude=["b.*"])
    assert done.report.num_removed == 110


class TestInTheLoop:
    """The schedule as the whole fit keeps it."""

    @pytest.fixture
    def scheduled(self, fit, monkeypatch):
        from dataclasses import replace

        from secateur.training import methods

        def run(method="bmr-spike-and-slab", *, epochs=6, recipe=None, **options):
            chosen = methods.METHODS[method]
            changed = lambda e, n: replace(chosen.recipe(e, n), schedule=Schedule(**options), **recipe or {})  # noqa: E731
            monkeypatch.setitem(methods.METHODS, method, replace(chosen, recipe=changed))
            return fit(method=method, epochs=epochs)

        return run

    def test_warm_up_every_so_often_and_end(self, scheduled):
        run = scheduled(first_epoch=2, last_epoch=5, every=2)
        assert [row["epoch"] for row in run.history if "num_removed" in row] == [2, 4]
        assert [row["epoch"] for row in run.metrics["reductions"]] == [2, 4]
        assert run.history[0]["sparsity"] == 0

    def test_the_cap_on_each_reduction(self, scheduled):
        run = scheduled(first_epoch=1, last_epoch=6, max_fraction=0.1)
        kept = [run.metrics["num_weights"], *(row["num_kept"] for row in run.history)]
        for before, after in itertools.pairwise(kept):
            assert before - after <= 0.1 * before
        assert run.metrics["sparsity"] > 0.2

    def test_the_cap_on_all_of_them(self, scheduled):
        run = scheduled(first_epoch=1, last_epoch=6, max_sparsity=0.2)
        assert run.metrics["sparsity"] == pytest.approx(0.2, abs=1e-3)

    def test_removed_weights_never_come_back(self, scheduled):
        run = scheduled("calibrated", first_epoch=1, last_epoch=2, recipe={"settle_epoch": None})
        counts = [row["num_kept"] for row in run.history]
        assert counts == sorted(counts, reverse=True)
        assert counts[1:] == counts[1:2] * 5
        for name, keep in run.posterior.keep.items():
            assert (run.model.get_parameter(name if keep.all() else f"{name}_orig")[~keep] == 0).all()

    def test_observed_beside_predicted(self, scheduled):
        rows = scheduled("calibrated", first_epoch=2, last_epoch=2).metrics["reductions"]
        assert rows[0]["predicted_delta_f"] > 0
        assert math.isfinite(rows[0]["observed_delta_f"])
        assert rows[0]["observed_delta_f"] != rows[0]["predicted_delta_f"]


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

    def __call__(self, masks):
        narrowed = frozenset(
            layer for layer, width in self.widths().items() if width > 1.01 * self.wide[layer]
        )
        self.asked.append(narrowed)
        return 1.0 + sum(self.rise[layer] for layer in narrowed)


@pytest.mark.parametrize(
    ("rise", "borne"),
    [
        ({"0": 0.0, "2": 0.0}, {"0", "2"}),
        ({"0": 0.3, "2": 0.0}, {"2"}),
        ({"0": 0.0, "2": math.nan}, {"0"}),
        ({"0": 0.3, "2": 0.3}, set()),
        ({"0": 0.15, "2": 0.15}, {"0"}),  # each alone would do
    ],
)
def test_priors_shrink_in_those_layers_whose_loss_bears_it(optimizer, rise, borne):
    before = optimizer.posterior()
    loss = LossOfLayers(optimizer, rise)
    done = shrink_priors(
        optimizer,
        schedule(max_loss_rise=0.2),
        loss,
        hyperprior="tiered",
        best_loss=math.inf,
        exclude=None,
    )
    after = optimizer.posterior()
    assert loss.asked[1] == {"0", "2"}  # all at once comes first
    assert len(loss.asked) == (2 if borne == {"0", "2"} else 5)
    assert loss.asked[-1] == borne
    assert (done.loss_before, done.loss_after) == (1.0, pytest.approx(1 + sum(rise[each] for each in borne)))
    for name, mean in before.mean.items():
        if name.partition(".")[0] not in borne:
            torch.testing.assert_close(after.mean[name], mean)
            torch.testing.assert_close(after.precision[name], before.precision[name])


@pytest.mark.parametrize(("build", "got"), [(FlatMAP, "FlatMAP"), (FlatFF, "FlatFF")])
def test_priors_that_cannot_be_narrowed_are_refused_before_training(build, got):
    model = torch.nn.Linear(3, 2)
    optimizer = build(model.named_parameters(), num_data=10)  # FlatFF: not adaptive
    data = Split(torch.zeros(16, 1, 1, 3), torch.zeros(16, dtype=torch.long))
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=1e-3, hyperprior="tiered")
    with pytest.raises(InvalidArgumentError, match=f"hyperprior: expected FlatFF .*, got {got} without; set"):
        Trainer(model, optimizer, recipe, data, None, seed=0)
