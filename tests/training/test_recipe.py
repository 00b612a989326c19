"""Recipes: valid for any length and size of data, and what their schedules of step size and warmth mean."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import InvalidArgumentError
from secateur.pruning import schedule
from secateur.training import METHODS, Recipe

METHOD = st.sampled_from(sorted(METHODS))


def check(method, epochs, num_data):
    recipe = METHODS[method].recipe(epochs, num_data)
    assert recipe.epochs == epochs
    left = num_data - recipe.num_held_out(num_data)
    assert recipe.batch_size <= left
    rates = [recipe.learning_rate_at(epoch + part) for epoch in range(epochs) for part in (0.0, 0.5, 0.99)]
    assert all(rate >= 0 and math.isfinite(rate) for rate in rates)
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[0] == pytest.approx(recipe.learning_rate)
    assert all(recipe.temperature_at(epoch) > 0 for epoch in range(epochs))
    if recipe.schedule is not None:
        assert any(recipe.schedule.due(epoch) for epoch in range(1, epochs + 1))
        assert recipe.schedule.last_epoch <= epochs
    return recipe


@pytest.mark.parametrize("num_data", [100, 1437, 60_000])
@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 50])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_one(method, epochs, num_data):
    check(method, epochs, num_data)


@given(method=METHOD, epochs=st.integers(1, 400), num_data=st.integers(20, 2_000_000))
def test_for_any_length_and_size(method, epochs, num_data):
    check(method, epochs, num_data)


@given(
    method=st.sampled_from(["calibrated", "ivon"]),
    epochs=st.integers(1, 400),
    num_data=st.integers(50, 200_000),
)
def test_the_first_reduction_waits_until_the_hessian_has_settled(method, epochs, num_data):
    """It is a running average over a thousand steps, counted on all data, held out or not."""
    recipe = check(method, epochs, num_data)
    if recipe.schedule is not None:
        steps_per_epoch = num_data // recipe.batch_size
        assert recipe.schedule.first_epoch * steps_per_epoch >= schedule.STEPS_OF_WARM_UP
        if method == "calibrated":
            assert recipe.schedule.every * steps_per_epoch >= schedule.STEPS_BETWEEN_REDUCTIONS


def test_the_paper_has_its_own():
    recipe = METHODS["bmr-spike-and-slab"].recipe(50, 60_000)
    assert (recipe.batch_size, recipe.learning_rate) == (120, 1e-2)
    assert [epoch for epoch in range(1, 51) if recipe.schedule.due(epoch)] == list(range(1, 51))
    assert METHODS["flat-map"].recipe(50, 60_000).dropout == 0.2
    assert METHODS["flat-ff"].recipe(50, 60_000).learning_rate == 5e-3


def test_two_stretches():
    recipe = Recipe(
        epochs=10, learning_rate=1.0, floor=0.1, settle_epoch=6, settle_learning_rate=0.5,
        temperature=0.1, settle_temperature=0.3,
    )  # fmt: skip
    assert recipe.learning_rate_at(0.0) == 1.0
    assert recipe.learning_rate_at(3.0) == pytest.approx(0.1 + 0.9 / 2)
    assert recipe.learning_rate_at(5.999) == pytest.approx(0.1, abs=1e-3)
    assert recipe.learning_rate_at(6.0) == 0.5
    assert recipe.learning_rate_at(8.0) == pytest.approx(0.25)
    assert recipe.learning_rate_at(10.0) == 0
    assert [recipe.temperature_at(epoch) for epoch in (0, 5, 6, 9)] == [0.1, 0.1, 0.3, 0.3]


def test_held_out_data_are_few():
    recipe = Recipe(epochs=1, learning_rate=1.0, holdout=0.05, predictive_temperatures=(0.0, 1.0))
    assert [recipe.num_held_out(n) for n in (5, 100, 1437, 60_000)] == [0, 5, 72, 2000]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive finite number, got 0.0"),
        ({"temperature": math.inf}, "temperature"),
        ({"prior_precision": -1.0}, "prior_precision"),
        ({"predictive_temperatures": ()}, "predictive_temperatures: expected some"),
        ({"predictive_temperatures": (-0.1,)}, "none negative"),
        ({"predictive_temperatures": (0.0, 1.0)}, "holdout: expected a fraction"),
        ({"holdout": 0.1}, "holdout: expected a fraction"),
        ({"settle_epoch": 5}, "settle_epoch: expected between 1 and 4, got 5"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, said):
    with pytest.raises(InvalidArgumentError, match=said):
        Recipe(**{"epochs": 5, "learning_rate": 1.0} | changes)


def test_the_baselines_are_given_a_sparsity_and_the_evidence_is_not():
    given = {name: method.default_sparsity for name, method in METHODS.items() if method.default_sparsity}
    assert given == {"magnitude": 0.95, "signal-to-noise": 0.95, "obd": 0.95}


def test_the_baselines_differ_from_the_default_by_their_criterion_alone():
    from dataclasses import replace

    ours = METHODS["calibrated"].recipe(50, 60_000)
    for name in ("signal-to-noise", "obd"):
        assert METHODS[name].recipe(50, 60_000) == replace(ours, criterion=name)
