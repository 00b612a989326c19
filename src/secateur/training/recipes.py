"""Recipes of the methods: learning rates, temperatures and schedules, for a number of epochs and of data."""

from collections.abc import Callable
from dataclasses import replace

from secateur.inference.calibrated import HESSIAN_PRIOR_PRECISION, HESSIAN_TEMPERATURE
from secateur.pruning import Schedule
from secateur.pruning.schedule import MAX_LOSS_RISE
from secateur.training.recipe import Recipe

__all__ = [
    "bmr",
    "bmr_horseshoe",
    "calibrated",
    "flat_ff",
    "flat_map",
    "ivon",
    "joint",
    "magnitude",
    "ranked_by",
    "tuned_ff",
]

PREDICTIVE_TEMPERATURES = (0.0, 0.1, 0.2, 1 / 3, 0.5, 0.7, 1.0, 1.2, 1.4, 1.7, 2.0, 2.4)
HELD_OUT = 0.05  # of the training data, for the choice of a temperature
STEPS_BETWEEN_LOOKS = 10  # at the curvature, at most; a look costs about as much as a step
LOOKS_OF_A_RUN = 100  # at least, where a run has so many steps
MOST_AT_ONCE = 0.35  # of what is left
MAX_JOINT_RISE = 0.01  # nats per datum, a standard error of the loss that is observed
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


def calibrated(epochs: int, num_data: int) -> Recipe:
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
    # what is held out makes no steps, so the curvature may need an epoch more
    settled = Schedule.warm_up(
        epochs, steps_per_epoch=_steps_per_epoch(num_data - recipe.num_held_out(num_data))
    )
    if schedule is None or settled > _share(epochs, 0.6):
        return recipe
    schedule = replace(schedule, first_epoch=max(schedule.first_epoch, settled))
    return replace(
        recipe,
        settle_epoch=_share(epochs, 0.6),
        settle_learning_rate=3e-3,
        settle_temperature=0.5,
        schedule=schedule,
    )


def joint(epochs: int, num_data: int) -> Recipe:
    """The default recipe under a running curvature, with a joint removal after each epoch.

    Each ends where the measured evidence does, or where the observed loss rises by `MAX_JOINT_RISE` over the
    best seen (`pruning.joint_step`). Temperatures are a tenth, since the precision is no longer too large;
    held-out images chose them over the defaults of `Calibrated` (docs/lab.md).
    """
    recipe = calibrated(epochs, num_data)
    looks = min(STEPS_BETWEEN_LOOKS, max(1, epochs * _steps_per_epoch(num_data) // LOOKS_OF_A_RUN))
    recipe = replace(recipe, temperature=0.01, steps_between_looks=looks)
    if recipe.schedule is None:
        return recipe
    schedule = replace(recipe.schedule, every=1, max_fraction=MOST_AT_ONCE, max_loss_rise=MAX_JOINT_RISE)
    return replace(recipe, settle_temperature=0.1, schedule=schedule)


def ivon(epochs: int, num_data: int) -> Recipe:
    """Remove after each epoch, from the first that the curvature means something in."""
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


def flat_map(epochs: int, num_data: int) -> Recipe:
    """The paper's, of its point estimate."""
    return Recipe(epochs=epochs, batch_size=_batch_size(num_data), learning_rate=1e-3, dropout=0.2)


def flat_ff(epochs: int, num_data: int) -> Recipe:
    """The paper's, of its mean-field posteriors."""
    return Recipe(epochs=epochs, batch_size=_batch_size(num_data), learning_rate=5e-3)


def tuned_ff(epochs: int, num_data: int) -> Recipe:
    """What the default recipe has besides its posterior: a cosine to zero, and a chosen temperature."""
    return replace(
        flat_ff(epochs, num_data),
        floor=0.0,
        predictive_temperatures=PREDICTIVE_TEMPERATURES,
        holdout=HELD_OUT,
    )


def bmr(epochs: int, num_data: int) -> Recipe:
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


def bmr_horseshoe(epochs: int, num_data: int) -> Recipe:
    """The paper's, but after every fifth epoch: on a CPU each shrinkage takes as long as some epochs.

    And not without a look at the loss: early on, a layer's posterior can still be so near its prior that the
    layer's scale takes it out whole.
    """
    every = min(EPOCHS_BETWEEN_SHRINKAGES, max(1, epochs // 5))
    schedule = Schedule(
        first_epoch=every, last_epoch=max(every, epochs - every), every=every, max_loss_rise=MAX_LOSS_RISE
    )
    return replace(bmr(epochs, num_data), schedule=schedule, hyperprior="tiered")


def magnitude(epochs: int, num_data: int) -> Recipe:
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


def ranked_by(criterion: str) -> Callable[[int, int], Recipe]:
    """The default recipe, in which another criterion ranks."""

    def recipe(epochs: int, num_data: int) -> Recipe:
        return replace(calibrated(epochs, num_data), criterion=criterion)

    return recipe
