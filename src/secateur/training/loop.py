"""Training loop: train an epoch, prune when due; can be resumed after every epoch."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.data import Split, crop_and_flip
from secateur.distributed import averaged, gathered, num_ranks, rank, sum_in_place
from secateur.errors import ArtifactError, DataError
from secateur.inference import PosteriorOptimizer
from secateur.likelihoods import Likelihood
from secateur.modules import evaluation_mode, has_batch_norm, reestimate, spread
from secateur.posterior import Posterior
from secateur.pruning import GradualPruner, PruneResult, PruningWarning
from secateur.pruning.shrinkage import require_adaptive
from secateur.training.batch_norm import NUM_CALIBRATION
from secateur.training.divergence import check_losses, check_weights
from secateur.training.prediction import CATEGORICAL, predictions, score_once
from secateur.training.progress import Progress
from secateur.training.recipe import Recipe
from secateur.training.step import StepOptions, loss_function, seeded

__all__ = ["Trainer"]

OBSERVED_DATA = 2000  # training examples on which each reduction is observed
SAVED_FIELDS = ("epoch", "seconds", "training_seconds", "history", "reductions")
OF_A_PRUNING = ("num_removed", "predicted_delta_f", "observed_delta_f")
STEPS_BETWEEN_LOOKS = 50  # at the loss, to show it; on a GPU also to check it, since reading makes it wait


@dataclass
class Trainer:
    """State of a training run, and its steps.

    Attributes:
        model: Network; its removed weights are held at zero.
        optimizer: Holds the posterior.
        recipe: How the fit goes.
        train: Training data on the model's device.
        test: Data to judge by after each epoch, if any.
        seed: Seeds the order of the data, augmentation and dropout, epoch by epoch.
        sparsity: Exact sparsity to end with; None to let the evidence decide.
        options: Augmentation, precision and compilation of the step.
        likelihood: Distribution of the labels given the network's outputs, before it has learned anything.
        epoch: Completed epochs.
        seconds: Time spent in them, evaluation included.
        training_seconds: The part of it spent in training steps.
        history: One row per completed epoch.
        reductions: One row per reduction.
        pruner: What removes weights as the recipe says; None where it never does.
    """

    model: nn.Module
    optimizer: PosteriorOptimizer
    recipe: Recipe
    train: Split
    test: Split | None
    seed: int
    sparsity: float | None = None
    options: StepOptions = field(default_factory=StepOptions)
    likelihood: Likelihood = CATEGORICAL
    epoch: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    reductions: list[dict[str, Any]] = field(default_factory=list)
    pruner: GradualPruner | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._loss_of = loss_function(self.model, self.options)
        self._present_likelihood = self.likelihood
        if self.recipe.batch_size > len(self.train):
            raise DataError(
                f"batch_size: expected at most the {len(self.train)} training examples, got "
                f"{self.recipe.batch_size}; lower --batch-size"
            )
        if self.recipe.batch_size < num_ranks():
            raise DataError(
                f"batch_size: expected at least one datum for each of {num_ranks()} processes, got "
                f"{self.recipe.batch_size}; raise --batch-size or start fewer"
            )
        self.pruner = self._pruner()

    def _pruner(self) -> GradualPruner | None:
        """Build the pruner of the recipe; refuse a sparsity out of reach."""
        schedule = self.recipe.schedule
        if self.recipe.hyperprior is not None:
            require_adaptive(self.optimizer)
        if schedule is None or schedule.first_epoch > self.recipe.epochs:
            return None
        images = self.train.images[:OBSERVED_DATA]
        return GradualPruner(
            self.model,
            self.optimizer,
            replace(schedule, last_epoch=min(schedule.last_epoch, self.recipe.epochs)),
            observe=self._observed_loss,
            sparsity=self.sparsity,
            criterion=self.recipe.criterion,
            hyperprior=self.recipe.hyperprior,
            calibration=images if has_batch_norm(self.model) else None,
        )

    @property
    def calibration(self) -> Tensor | None:
        """Training images that each draw's batch norm is calibrated on; None where the network has none."""
        return spread(self.train.images, NUM_CALIBRATION) if has_batch_norm(self.model) else None

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training data; what is left over waits for the next epoch's order."""
        return len(self.train) // self.recipe.batch_size

    def run(self, progress: Progress, after_epoch: Callable[["Trainer"], None]) -> None:
        """Train until the recipe's last epoch.

        Args:
            progress: Is told of every step and epoch.
            after_epoch: Called when an epoch is complete and in the history; saves it.

        Raises:
            DivergenceError: If the loss is not finite.
        """
        progress.start(
            total_epochs=self.recipe.epochs,
            steps_per_epoch=self.steps_per_epoch,
            resumed_epoch=self.epoch,
        )
        while self.epoch < self.recipe.epochs:
            started = time.perf_counter()
            loss = self._train_epoch(progress)
            self.training_seconds += time.perf_counter() - started
            self.epoch += 1
            result = self._prune(progress)
            reestimate(self.model, self.train.images)
            row = self._row(loss, result)
            self.seconds += time.perf_counter() - started
            self.history.append({**row, "seconds": self.seconds})
            progress.epoch(self.history[-1])
            after_epoch(self)
            gathered(self.epoch)  # no rank trains on if another could not save

    def _train_epoch(self, progress: Progress) -> float:
        images, labels = self.train.images, self.train.labels
        device = images.device
        # Order, augmentation and dropout follow from seed and epoch alone: a resumed run needs no more.
        epoch_seed = self.seed * 1_000_003 + self.epoch
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(epoch_seed)).to(
            device
        )
        batches = order[: self.steps_per_epoch * self.recipe.batch_size].view(self.steps_per_epoch, -1)
        for group in self.optimizer.param_groups:
            if "temperature" in group:
                group["temperature"] = self.recipe.temperature_at(self.epoch)
        self._present_likelihood = self.learned_likelihood()  # a function of the weights: resumed runs agree
        if self.optimizer.curvature is not None:
            self.optimizer.curvature.likelihood = self._present_likelihood
        augmenter = torch.Generator(device).manual_seed(epoch_seed) if self.options.augment else None
        total, unread = torch.zeros((), device=device), []
        self.model.train()
        own = slice(rank(), None, num_ranks())
        with seeded(epoch_seed + rank(), device):  # other units drop out on other ranks
            for index, batch in enumerate(batches):
                for group in self.optimizer.param_groups:
                    group["lr"] = self.recipe.learning_rate_at(self.epoch + index / self.steps_per_epoch)
                x, y = images[batch], labels[batch]
                if augmenter is not None:
                    x = crop_and_flip(x, generator=augmenter)  # what the curvature looks at too
                with self.optimizer.sampled_parameters():
                    loss = self._loss_of(x, y, self._present_likelihood)
                    unread.append(loss.detach())
                    step = self.epoch * self.steps_per_epoch + index + 1
                    shown = index % STEPS_BETWEEN_LOOKS == 0 or index + 1 == len(batches)
                    # under the weights that gave the loss
                    if shown or (device.type == "cpu" and num_ranks() == 1):
                        rate = self.optimizer.param_groups[0]["lr"]
                        unread = self._over_ranks(unread)
                        value = check_losses(
                            unread, last_step=step, model=self.model, batch=x, learning_rate=rate
                        )
                        unread.clear()
                    self.optimizer.zero_grad()
                    loss.backward()
                self.optimizer.step()
                if self.optimizer.curvature is not None:
                    self.optimizer.curvature.step((x[own], y[own]))
                total += loss.detach()
                progress.step(step, value if shown else None)
        check_weights(self.model, step=step, learning_rate=self.optimizer.param_groups[0]["lr"])
        return averaged(float(total)) / self.steps_per_epoch

    @staticmethod
    def _over_ranks(losses: list[Tensor]) -> list[Tensor]:
        """Return losses averaged over ranks, so that all of them see one that is not finite."""
        if num_ranks() == 1:
            return losses
        mean = torch.stack(losses) / num_ranks()
        sum_in_place([mean])
        return list(mean)

    def _prune(self, progress: Progress) -> PruneResult | None:
        """Prune if due; report warnings to the user."""
        if self.pruner is None or not self.pruner.due(self.epoch):
            return None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PruningWarning)
            result = self.pruner.step()
        for each in caught:
            if issubclass(each.category, PruningWarning):
                progress.message(str(each.message))
            else:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        row = {key: getattr(result, key) for key in OF_A_PRUNING}
        self.reductions.append({"epoch": self.epoch, **row})
        return result

    def _observed_loss(self, model: nn.Module) -> float:
        """Return the loss of the posterior-mean network on some training data, in nats per datum."""
        images, labels = self.train.images[:OBSERVED_DATA], self.train.labels[:OBSERVED_DATA]
        likelihood = self._present_likelihood
        with evaluation_mode(model):
            predicted = predictions(model, images, likelihood=likelihood)
        return float(likelihood.prediction_loss(predicted, labels))

    @torch.no_grad()
    def learned_likelihood(self) -> Likelihood:
        """Return the likelihood after learning its noise from residuals of some training data, if it does."""
        if not self.likelihood.learned:
            return self.likelihood
        images, labels = self.train.images[:OBSERVED_DATA], self.train.labels[:OBSERVED_DATA]
        with evaluation_mode(self.model):
            return self.likelihood.updated(self.model(images), labels)

    def _row(self, loss: float, result: PruneResult | None) -> dict[str, Any]:
        num_weights, num_kept = self.counts()
        row: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.epoch * self.steps_per_epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": loss,
            "sparsity": 1 - num_kept / num_weights,
            "num_kept": num_kept,
        }
        if self.test is not None:
            row |= score_once(self.model, self.test, likelihood=self.learned_likelihood())[0]
        if result is not None:
            row |= {key: getattr(result, key) for key in OF_A_PRUNING}
        return row

    def counts(self) -> tuple[int, int]:
        """Count the network's weights and the kept ones."""
        num_weights = sum(parameter.numel() for parameter in self.model.parameters())
        removed = sum(int((~keep).sum()) for keep in self.posterior().keep.values())
        return num_weights, num_weights - removed

    def posterior(self) -> Posterior:
        """Return the current posterior at the temperature of the evidence."""
        return self.optimizer.posterior()

    def state(self) -> dict[str, Any]:
        """Return everything the next epoch depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": None if self.pruner is None else self.pruner.state_dict(),
            **{name: getattr(self, name) for name in SAVED_FIELDS},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load a state that `state()` returned.

        Args:
            state: What `state()` returned, perhaps through a file.

        Raises:
            ArtifactError: If it is of another network or method.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.pruner is not None:
                self.pruner.load_state_dict(state["pruner"])
            for name in SAVED_FIELDS:
                setattr(self, name, state[name])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            line = str(error).splitlines()[-1].strip()
            raise ArtifactError(
                f"checkpoint: expected one of this network and method, got another's: {line}"
            ) from error
