"""Table of methods by name: optimiser and recipe of each.

A new method is one entry of `METHODS`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from secateur.errors import unknown_name
from secateur.inference import IVON, Calibrated, FlatFF, FlatMAP, HorseshoeFF, PosteriorOptimizer
from secateur.training import recipes
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


INIT_RANGE = 2.0  # of z, as in the public code of arXiv:2309.12095; the paper does not say
BASELINE_SPARSITY = 0.95  # where the default recipe ends on LeNet


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
        recipes.calibrated,
        family="ours",
    ),
    "joint": Method(
        "calibrated with the true curvature as its precision; removed jointly, and what stays moves",
        _calibrated,
        recipes.joint,
        family="ours",
    ),
    "ivon": Method(
        "variational online Newton, reduced by evidence after each epoch",
        _ivon,
        recipes.ivon,
        family="ours",
    ),
    "flat-map": Method(
        "the paper's maximum a posteriori with dropout 0.2; no reduction",
        _flat_map,
        recipes.flat_map,
        family="published",
    ),
    "flat-ff": Method(
        "the paper's mean-field variational inference; no reduction",
        _flat_ff,
        recipes.flat_ff,
        family="published",
    ),
    "tiered-ff": Method(
        "mean-field inference under the paper's horseshoe with one scale per neuron; no reduction",
        _horseshoe_ff("tiered"),
        recipes.flat_ff,
        family="published",
    ),
    "horseshoe-ff": Method(
        "the same under the full regularised horseshoe, a scale per weight; no reduction",
        _horseshoe_ff("full"),
        recipes.flat_ff,
        family="published",
    ),
    "bmr-spike-and-slab": Method(
        "the paper's: flat-ff, reduced by spike-and-slab evidence after each epoch",
        _flat_ff,
        recipes.bmr,
        family="published",
    ),
    "bmr-horseshoe": Method(
        "the paper's: flat-ff, whose prior is reduced to a regularised horseshoe",
        _flat_ff,
        recipes.bmr_horseshoe,
        family="published",
    ),
    "tiered-ff-tuned": Method(
        "tiered-ff with a falling step size and a predictive temperature chosen on held-out data",
        _horseshoe_ff("tiered"),
        recipes.tuned_ff,
        family="baselines",
    ),
    "horseshoe-ff-tuned": Method(
        "horseshoe-ff with a falling step size and a predictive temperature chosen on held-out data",
        _horseshoe_ff("full"),
        recipes.tuned_ff,
        family="baselines",
    ),
    "magnitude": Method(
        "gradual magnitude pruning of a point estimate, cubic schedule, to a sparsity (95 %)",
        _decayed_map,
        recipes.magnitude,
        default_sparsity=BASELINE_SPARSITY,
        family="baselines",
    ),
    "signal-to-noise": Method(
        "calibrated, ranked by |mean| / std and not by evidence, to a sparsity (95 %)",
        _calibrated,
        recipes.ranked_by("signal-to-noise"),
        default_sparsity=BASELINE_SPARSITY,
        family="baselines",
    ),
    "obd": Method(
        "calibrated, ranked by optimal brain damage's curvature x mean^2 / 2, to a sparsity (95 %)",
        _calibrated,
        recipes.ranked_by("obd"),
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
