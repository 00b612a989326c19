"""Table of methods by name: optimiser and recipe of each.

A new method is one entry of `METHODS`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from secateur.errors import unknown_name
from secateur.inference import IVON, Calibrated, FlatFF, FlatMAP, HorseshoeFF, PosteriorOptimizer
from secateur.inference.calibrated import HESSIAN_PRIOR_PRECISION, HESSIAN_TEMPERATURE
from secateur.pruning import Schedule
from secateur.pruning.schedule import MAX_LOSS_RISE
from secateur.training.recipe import Recipe

__all__ = ["FAMILIES", "METHODS", "Method", "family_of", "in_order", "method_named", "method_names"]


FAMILIES = ("published", "ours", "baselines", "further")
"""Families of methods, in the order of tables and legends; within one, methods follow `METHODS`."""


@dataclass(frozen=True)
class Method:
    """Optimiser and recipe of one method.

    Attributes:
        summary: Description in one line.
        optimizer: Builds the optimiser from named parameters, the recipe, `lr`, `num_data`, `generator` and
            `compile`.
        recipe: Returns the recipe for a number of epochs and of training data.
        default_epochs: Epochs when none are asked for.
        default_sparsity: Fraction of weights to remove when none is asked for; None lets the evidence decide.
        family: One of `FAMILIES`, under which tables and legends list it.
    """

    summary: str
    optimizer: Callable[..., PosteriorOptimizer]
    recipe: Callable[[int, int], Recipe]
    default_epochs: int = 50
    default_sparsity: float | None = None
    family: str = "further"


PREDICTIVE_TEMPERATURES = (0.0, 0.1, 0.2, 1 / 3, 0.5, 0.7, 1.0, 1.2, 1.4, 1.7, 2.0, 2.4)
HELD_OUT = 0.05  # of the training data, for the choice of a temperature
STEPS_BETWEEN_LOOKS = 10  # at the curvature, at most; a look costs about as much as a step
LOOKS_OF_A_RUN = 100  # at least, where a run has so many steps
MOST_AT_ONCE = 0.35  # of what is left
MAX_JOINT_RISE = 0.01  # nats per datum, a standard error of the loss that is observed
INIT_RANGE = 2.0  # of z, as in the public code of arXiv:2309.12095; the paper does not say
BASELINE_SPARSITY = 0.95  # where the default recipe ends on LeNet
DECAY = 12.0  # precision of the prior of magnitude pruning's weights
EPOCHS_BETWEEN_SHRINKAGES = 5  # each is an optimisation of its own, over all weights


def _share(epochs: int, fraction: float) -> int:
    return max(1, round(epochs * fraction))


def _batch_size(num_data: int) -> int:
    """Return the paper's 120, or fewer where a pass over the data would be under a hundred steps."""
    return min(120, max(16, num_data // 100))


def _steps_per_epoch(num_data: int) -> int:
    """Return the full batches in a pass over the data, at least one."""
    return max(1, num_data // _batch_size(num_data))


def _calibrated_recipe(epochs: int, num_data: int) -> Recipe:
    """Train cold, remove gradually over the first seven tenths, and settle, warmer, over the last four."""
    recipe = Recipe(
        epochs=epochs,
        batch_size=_batch_size(num_data),
        learning_rate=3e-3,
        floor=0.05,
        prior_precision=HESSIAN_PRIOR_PRECISION,
        temperature=HESSIAN_TEMPERATURE,
        predictive_temperatures=PREDICTIVE_TEMPERATURES,
        holdout=HELD_OUT,
    )
    schedule = Schedule.over(epochs, steps_per_epoch=_steps_per_epoch(num_data))
    if schedule is None:
        return recipe
    return replace(
        recipe,
        settle_epoch=_share(epochs, 0.6),
        settle_learning_rate=3e-3,
        settle_temperature=0.5,
        schedule=schedule,
    )


def _joint_recipe(epochs: int, num_data: int) -> Recipe:
    """The default recipe under a running curvature, with a joint removal after each epoch.

    Each ends where the measured evidence does, or where the observed loss rises by `MAX_JOINT_RISE` over the
    best seen (`pruning.joint_step`). Temperatures are a tenth, since the precision is no longer too large;
    held-out images chose them over the defaults of `Calibrated` (docs/lab.md).
    """
    recipe = _calibrated_recipe(epochs, num_data)
    looks = min(STEPS_BETWEEN_LOOKS, max(1, epochs * _steps_per_epoch(num_data) // LOOKS_OF_A_RUN))
    recipe = replace(recipe, temperature=0.01, steps_between_looks=looks)
    if recipe.schedule is None:
        return recipe
    schedule = replace(recipe.schedule, every=1, max_fraction=MOST_AT_ONCE, max_loss_rise=MAX_JOINT_RISE)
    return replace(recipe, settle_temperature=0.1, schedule=schedule)


def _ivon_recipe(epochs: int, num_data: int) -> Recipe:
    batch_size = _batch_size(num_data)
    first = Schedule.warm_up(epochs, steps_per_epoch=_steps_per_epoch(num_data))
    schedule = Schedule(first_epoch=first, last_epoch=epochs - 1) if first < epochs else None
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=0.2,
        floor=0.0,
        prior_precision=60.0,
        schedule=schedule,
    )


def _flat_map_recipe(epochs: int, num_data: int) -> Recipe:
    return Recipe(epochs=epochs, batch_size=_batch_size(num_data), learning_rate=1e-3, dropout=0.2)


def _flat_ff_recipe(epochs: int, num_data: int) -> Recipe:
    return Recipe(epochs=epochs, batch_size=_batch_size(num_data), learning_rate=5e-3)


def _tuned_ff_recipe(epochs: int, num_data: int) -> Recipe:
    """What the default recipe has besides its posterior: a cosine to zero, and a chosen temperature."""
    return replace(
        _flat_ff_recipe(epochs, num_data),
        floor=0.0,
        predictive_temperatures=PREDICTIVE_TEMPERATURES,
        holdout=HELD_OUT,
    )


def _bmr_recipe(epochs: int, num_data: int) -> Recipe:
    """The paper's: one epoch of warm-up, then all that the evidence allows after each epoch.

    In the authors' public code what is out has gone back to its prior and enters the next threshold with
    evidence 0. Counted as removed it lowers the threshold with every reduction, and far more goes than they
    publish (docs/lab.md).
    """
    return Recipe(
        epochs=epochs,
        batch_size=_batch_size(num_data),
        learning_rate=1e-2,
        schedule=Schedule(first_epoch=1, last_epoch=epochs, count_removed=False, num_iterations=4),
    )


def _bmr_horseshoe_recipe(epochs: int, num_data: int) -> Recipe:
    """The paper's, but after every fifth epoch: on a CPU each shrinkage takes as long as some epochs.

    And not without a look at the loss: early on, a layer's posterior can still be so near its prior that the
    layer's scale takes it out whole.
    """
    every = min(EPOCHS_BETWEEN_SHRINKAGES, max(1, epochs // 5))
    schedule = Schedule(
        first_epoch=every, last_epoch=max(every, epochs - every), every=every, max_loss_rise=MAX_LOSS_RISE
    )
    return replace(_bmr_recipe(epochs, num_data), schedule=schedule, hyperprior="tiered")


def _magnitude_recipe(epochs: int, num_data: int) -> Recipe:
    """Cubic from a tenth of the epochs to six tenths, under one half cosine (arXiv:1710.01878)."""
    first = _share(epochs, 0.1)
    return Recipe(
        epochs=epochs,
        batch_size=_batch_size(num_data),
        learning_rate=2e-3,
        floor=0.0,
        prior_precision=DECAY,
        schedule=Schedule(first_epoch=first, last_epoch=max(first, _share(epochs, 0.6)), shape="cubic"),
        criterion="magnitude",
    )


def _ranked_by(criterion: str) -> Callable[[int, int], Recipe]:
    """The default recipe, in which another criterion ranks."""

    def recipe(epochs: int, num_data: int) -> Recipe:
        return replace(_calibrated_recipe(epochs, num_data), criterion=criterion)

    return recipe


def _calibrated(
    params: Iterable[Any], recipe: Recipe, *, num_data: int, **options: Any
) -> PosteriorOptimizer:
    return Calibrated(params, num_data=num_data, weight_decay=recipe.prior_precision / num_data, **options)


def _ivon(params: Iterable[Any], recipe: Recipe, *, num_data: int, **options: Any) -> PosteriorOptimizer:
    decay = recipe.prior_precision / num_data
    return IVON(params, num_data=num_data, weight_decay=decay, noise="rademacher", **options)


def _flat_map(params: Iterable[Any], recipe: Recipe, **options: Any) -> PosteriorOptimizer:
    return FlatMAP(params, **options)


def _decayed_map(params: Iterable[Any], recipe: Recipe, **options: Any) -> PosteriorOptimizer:
    return FlatMAP(params, prior_precision=recipe.prior_precision, **options)


def _flat_ff(params: Iterable[Any], recipe: Recipe, **options: Any) -> PosteriorOptimizer:
    return FlatFF(params, init_range=INIT_RANGE, adaptive=recipe.hyperprior is not None, **options)


def _horseshoe_ff(scales: str) -> Callable[..., PosteriorOptimizer]:
    def build(params: Iterable[Any], recipe: Recipe, **options: Any) -> PosteriorOptimizer:
        return HorseshoeFF(params, scales=scales, init_range=INIT_RANGE, **options)

    return build


METHODS: dict[str, Method] = {
    "calibrated": Method(
        "posterior with a calibrated precision, reduced gradually by evidence (the default)",
        _calibrated,
        _calibrated_recipe,
        family="ours",
    ),
    "joint": Method(
        "calibrated with the true curvature as its precision; removed jointly, and what stays moves",
        _calibrated,
        _joint_recipe,
        family="ours",
    ),
    "ivon": Method(
        "variational online Newton, reduced by evidence after each epoch",
        _ivon,
        _ivon_recipe,
        family="ours",
    ),
    "flat-map": Method(
        "the paper's maximum a posteriori with dropout 0.2; no reduction",
        _flat_map,
        _flat_map_recipe,
        family="published",
    ),
    "flat-ff": Method(
        "the paper's mean-field variational inference; no reduction",
        _flat_ff,
        _flat_ff_recipe,
        family="published",
    ),
    "tiered-ff": Method(
        "mean-field inference under the paper's horseshoe with one scale per neuron; no reduction",
        _horseshoe_ff("tiered"),
        _flat_ff_recipe,
        family="published",
    ),
    "horseshoe-ff": Method(
        "the same under the full regularised horseshoe, a scale per weight; no reduction",
        _horseshoe_ff("full"),
        _flat_ff_recipe,
        family="published",
    ),
    "bmr-spike-and-slab": Method(
        "the paper's: flat-ff, reduced by spike-and-slab evidence after each epoch",
        _flat_ff,
        _bmr_recipe,
        family="published",
    ),
    "bmr-horseshoe": Method(
        "the paper's: flat-ff, whose prior is reduced to a regularised horseshoe",
        _flat_ff,
        _bmr_horseshoe_recipe,
        family="published",
    ),
    "tiered-ff+": Method(
        "tiered-ff with a falling step size and a predictive temperature chosen on held-out data",
        _horseshoe_ff("tiered"),
        _tuned_ff_recipe,
        family="baselines",
    ),
    "horseshoe-ff+": Method(
        "horseshoe-ff with a falling step size and a predictive temperature chosen on held-out data",
        _horseshoe_ff("full"),
        _tuned_ff_recipe,
        family="baselines",
    ),
    "magnitude": Method(
        "gradual magnitude pruning of a point estimate, cubic schedule, to a sparsity (95 %)",
        _decayed_map,
        _magnitude_recipe,
        default_sparsity=BASELINE_SPARSITY,
        family="baselines",
    ),
    "signal-to-noise": Method(
        "calibrated, ranked by |mean| / std and not by evidence, to a sparsity (95 %)",
        _calibrated,
        _ranked_by("signal-to-noise"),
        default_sparsity=BASELINE_SPARSITY,
        family="baselines",
    ),
    "obd": Method(
        "calibrated, ranked by optimal brain damage's curvature x mean^2 / 2, to a sparsity (95 %)",
        _calibrated,
        _ranked_by("obd"),
        default_sparsity=BASELINE_SPARSITY,
        family="baselines",
    ),
}


def method_names() -> tuple[str, ...]:
    """Return the names that `method_named` knows, the default first."""
    return tuple(METHODS)


def method_named(name: str) -> Method:
    """Return a method by name.

    Args:
        name: One of `method_names()`.

    Raises:
        UsageError: If there is none of that name; it lists those there are.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def family_of(name: str) -> str:
    """Return the family of a method, one of `FAMILIES`; the last for a method that has no entry."""
    family = METHODS[name].family if name in METHODS else ""
    return family if family in FAMILIES else FAMILIES[-1]


def in_order(names: Iterable[str]) -> list[str]:
    """Sort methods as tables and legends list them: family by family, each in the order of `METHODS`.

    >>> in_order(["obd", "mine", "flat-map"])
    ['flat-map', 'obd', 'mine']
    """
    known = list(METHODS)
    place = {name: known.index(name) if name in known else len(known) for name in names}
    return sorted(place, key=lambda name: (FAMILIES.index(family_of(name)), place[name], name))
