"""The built-in loop prunes as its schedule says, and refuses at once what cannot be done."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from secateur.data import Split
from secateur.errors import InvalidArgumentError
from secateur.inference import FlatFF, FlatMAP
from secateur.pruning import Schedule
from secateur.training import methods
from secateur.training.loop import Trainer
from secateur.training.recipe import Recipe


@pytest.fixture
def scheduled(fit, monkeypatch):
    def run(method="bmr-spike-and-slab", *, epochs=6, recipe=None, **options):
        chosen = methods.METHODS[method]
        schedule = Schedule(num_iterations=4, **options)
        changed = lambda e, n: replace(chosen.recipe(e, n), schedule=schedule, **recipe or {})  # noqa: E731
        monkeypatch.setitem(methods.METHODS, method, replace(chosen, recipe=changed))
        return fit(method=method, epochs=epochs)

    return run


def test_warm_up_every_so_often_and_end(scheduled):
    run = scheduled(first_epoch=2, last_epoch=5, every=2)
    assert [row["epoch"] for row in run.history if "num_removed" in row] == [2, 4]
    assert [row["epoch"] for row in run.metrics["reductions"]] == [2, 4]
    assert run.history[0]["sparsity"] == 0


def test_the_cap_on_each_reduction(scheduled):
    run = scheduled(first_epoch=1, last_epoch=6, max_fraction=0.1)
    kept = [run.metrics["num_weights"], *(row["num_kept"] for row in run.history)]
    for before, after in itertools.pairwise(kept):
        assert before - after <= 0.1 * before
    assert run.metrics["sparsity"] > 0.2


def test_the_cap_on_all_of_them(scheduled):
    run = scheduled(first_epoch=1, last_epoch=6, max_sparsity=0.2)
    assert run.metrics["sparsity"] == pytest.approx(0.2, abs=1e-3)


def test_removed_weights_never_come_back(scheduled):
    run = scheduled("calibrated", first_epoch=1, last_epoch=2, recipe={"settle_epoch": None})
    counts = [row["num_kept"] for row in run.history]
    assert counts == sorted(counts, reverse=True)
    assert counts[1:] == counts[1:2] * 5
    for name, keep in run.posterior.keep.items():
        assert (run.model.get_parameter(name)[~keep] == 0).all()


def test_observed_beside_predicted(scheduled):
    rows = scheduled("calibrated", first_epoch=2, last_epoch=2).metrics["reductions"]
    assert rows[0]["predicted_delta_f"] > 0
    assert math.isfinite(rows[0]["observed_delta_f"])
    assert rows[0]["observed_delta_f"] != rows[0]["predicted_delta_f"]


@pytest.mark.parametrize(("build", "got"), [(FlatMAP, "FlatMAP"), (FlatFF, "FlatFF")])
def test_priors_that_cannot_be_narrowed_are_refused_before_training(build, got):
    model = torch.nn.Linear(3, 2)
    optimizer = build(model.named_parameters(), num_data=10)  # FlatFF: not adaptive
    data = Split(torch.zeros(16, 1, 1, 3), torch.zeros(16, dtype=torch.long))
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=1e-3, hyperprior="tiered")
    with pytest.raises(InvalidArgumentError, match=f"hyperprior: expected FlatFF .*, got {got} without; set"):
        Trainer(model, optimizer, recipe, data, None, seed=0)
