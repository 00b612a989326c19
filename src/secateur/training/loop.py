"""The built-in loop: fit an epoch, reduce when due, again; resumable after every epoch."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from glob import escape
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import Split
from secateur.errors import ArtifactError, DataError
from secateur.inference import PosteriorOptimizer
from secateur.posterior import Posterior
from secateur.pruning import Report, output_parameters, reduce
from secateur.training.batch_norm import NUM_CALIBRATION, has_batch_norm, reestimate, spread
from secateur.training.divergence import check_losses, check_weights
from secateur.training.judging import is_point
from secateur.training.prediction import evaluation_mode, log_probabilities, score
from secateur.training.progress import Progress
from secateur.training.recipe import Recipe
from secateur.training.reduction_step import reduce_to, reduce_within, require_adaptive, shrink_priors
from secateur.training.step import StepOptions, loss_function, seeded

__all__ = ["Trainer"]

OBSERVED_DATA = 2000  # training examples on which each reduction is observed
PROGRESS = (
    "epoch",
    "seconds",
    "training_seconds",
    "history",
    "reductions",
    "removed_delta_f",
    "best_loss",
)
STEPS_BETWEEN_LOOKS = 50  # at the loss, to show it; on a GPU also to check it, since reading makes it wait


@dataclass
class Trainer:
    """A fit in progress: all of its state, and the steps that move it.

    Attributes:
        model: Unmasked network; removed weights are held at zero by the optimiser.
        optimizer: Holds the posterior.
        recipe: How the fit goes.
        train: Training data on the model's device.
        test: Data to judge by after each epoch, if any.
        seed: Seeds the order of the data, augmentation and dropout, epoch by epoch.
        sparsity: Exact sparsity to end with; None to let the evidence decide.
        options: Augmentation, precision and compilation of the step.
        epoch: Completed epochs.
        seconds: Time spent in them, evaluation included.
        training_seconds: The part of it spent in training steps.
        history: One row per completed epoch.
        reductions: One row per reduction.
        removed_delta_f: Predicted evidence of all that was removed, by parameter, in nats.
        best_loss: Lowest loss observed at a reduction, in nats per datum.
    """

    model: nn.Module
    optimizer: PosteriorOptimizer
    recipe: Recipe
    train: Split
    test: Split | None
    seed: int
    sparsity: float | None = None
    options: StepOptions = field(default_factory=StepOptions)
    epoch: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    reductions: list[dict[str, Any]] = field(default_factory=list)
    removed_delta_f: dict[str, float] = field(default_factory=dict)
    best_loss: float = math.inf

    def __post_init__(self) -> None:
        self._loss_of = loss_function(self.model, self.options)
        if self.recipe.batch_size > len(self.train):
            raise DataError(
                f"batch_size: expected at most the {len(self.train)} training examples, got "
                f"{self.recipe.batch_size}; lower --batch-size"
            )
        # what cannot be done is refused before the first step: shrinking without a prior to shrink ...
        if self.recipe.hyperprior is not None:
            require_adaptive(self.optimizer)
        if self.sparsity is not None:  # ... and a target out of reach
            posterior = self.optimizer.posterior()
            target = self._of_posterior(self.sparsity)
            reduce(
                posterior,
                sparsity=target,
                criterion=self.recipe.criterion,
                exclude=self.excluded(posterior),
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
            reduction = self._reduce() if self._reduction_is_due() else None
            reestimate(self.model, self.train.images)
            row = self._row(loss, reduction)
            self.seconds += time.perf_counter() - started
            self.history.append({**row, "seconds": self.seconds})
            progress.epoch(self.history[-1])
            after_epoch(self)

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
        augmenter = torch.Generator(device).manual_seed(epoch_seed) if self.options.augment else None
        total, unread = torch.zeros((), device=device), []
        self.model.train()
        with seeded(epoch_seed, device):
            for index, batch in enumerate(batches):
                for group in self.optimizer.param_groups:
                    group["lr"] = self.recipe.learning_rate_at(self.epoch + index / self.steps_per_epoch)
                x, y = images[batch], labels[batch]
                with self.optimizer.sampled_parameters():
                    loss = self._loss_of(x, y, augmenter)
                    unread.append(loss.detach())
                    step = self.epoch * self.steps_per_epoch + index + 1
                    shown = index % STEPS_BETWEEN_LOOKS == 0 or index + 1 == len(batches)
                    if shown or device.type == "cpu":  # under the weights that gave the loss
                        rate = self.optimizer.param_groups[0]["lr"]
                        value = check_losses(
                            unread, last_step=step, model=self.model, batch=x, learning_rate=rate
                        )
                        unread.clear()
                    self.optimizer.zero_grad()
                    loss.backward()
                self.optimizer.step()
                total += loss.detach()
                progress.step(step, value if shown else None)
        check_weights(self.model, step=step, learning_rate=self.optimizer.param_groups[0]["lr"])
        return float(total) / self.steps_per_epoch

    def _reduction_is_due(self) -> bool:
        return self.recipe.schedule is not None and self.recipe.schedule.due(self.epoch)

    def _reduce(self) -> Report:
        """Remove what the evidence allows now, and compare what it predicts with what is observed."""
        schedule = self.recipe.schedule
        assert schedule is not None
        before = self.optimizer.posterior()
        exclude = self.excluded(before)
        if self.recipe.hyperprior is not None:
            done = shrink_priors(
                require_adaptive(self.optimizer),
                schedule,
                self._observed_loss,
                hyperprior=self.recipe.hyperprior,
                best_loss=self.best_loss,
                exclude=exclude,
            )
        elif self.sparsity is None:
            done = reduce_within(
                before, schedule, self._observed_loss, best_loss=self.best_loss, exclude=exclude
            )
        else:
            due = schedule.target(self.sparsity, epoch=self.epoch, epochs=self.recipe.epochs)
            done = reduce_to(
                before,
                self._of_posterior(due),
                self._observed_loss,
                criterion=self.recipe.criterion,
                exclude=exclude,
            )
        report = done.report
        self.best_loss = min(self.best_loss, done.loss_before)
        self.optimizer.hold(report.masks)
        # a point has no posterior to diverge from its prior: only its loss can be compared
        divergence = (
            0.0
            if is_point(before)
            else float(before.kl_divergence() - self.optimizer.posterior().kl_divergence())
        )
        for name, mask in report.masks.items():
            leaving = before.present(name) & ~mask
            evidence = float(report.delta_f[name][leaving].sum(dtype=torch.float64))
            self.removed_delta_f[name] = self.removed_delta_f.get(name, 0.0) + evidence
        self.reductions.append({
            "epoch": self.epoch,
            "num_removed": report.num_removed,
            "predicted_delta_f": done.predicted_delta_f,
            "observed_delta_f": len(self.train) * (done.loss_before - done.loss_after) + divergence,
        })
        return report

    def _of_posterior(self, sparsity: float) -> float:
        """Return a sparsity of the whole network as one of the weights that have a posterior."""
        assert self.sparsity is not None
        num_weights = sum(parameter.numel() for parameter in self.model.parameters())
        of_posterior = sum(mean.numel() for mean in self.posterior().mean.values())
        return sparsity * num_weights / of_posterior

    def excluded(self, posterior: Posterior) -> Sequence[str] | None:
        """Return the names of parameters that stay: the output layer's, if there is any other layer."""
        output = output_parameters(self.model)  # a head tied to an embedding under both names
        others = any(mean.dim() > 1 and name not in output for name, mean in posterior.mean.items())
        return [escape(name) for name in output] if others else None

    def _observed_loss(self, masks: dict[str, Tensor]) -> float:
        """Return the loss of the posterior-mean network under masks on some training data, per datum."""
        images, labels = self.train.images[:OBSERVED_DATA], self.train.labels[:OBSERVED_DATA]
        weights = {
            name: parameter.detach() * masks[name] if name in masks else parameter.detach()
            for name, parameter in self.model.named_parameters()
        }
        with evaluation_mode(self.model):
            predicted = log_probabilities(self.model, images, weights, calibration=images)
        return float(F.nll_loss(predicted, labels))

    def _row(self, loss: float, report: Report | None) -> dict[str, Any]:
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
            figures, _ = score(self.model, self.test)
            row |= figures.as_dict()
        if report is not None:
            row |= {key: value for key, value in self.reductions[-1].items() if key != "epoch"}
        return row

    def counts(self) -> tuple[int, int]:
        """Return the network's weights and how many of them are still in."""
        num_weights = sum(parameter.numel() for parameter in self.model.parameters())
        removed = sum(int((~keep).sum()) for keep in self.posterior().keep.values())
        return num_weights, num_weights - removed

    def posterior(self) -> Posterior:
        """Return the current posterior, at the temperature at which evidence is judged."""
        return self.optimizer.posterior()

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in PROGRESS},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state()` was taken.

        Args:
            state: What `state()` returned, perhaps through a file.

        Raises:
            ArtifactError: If it is of another network or method.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for name in PROGRESS:
                setattr(self, name, state[name])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            line = str(error).splitlines()[-1].strip()
            raise ArtifactError(
                f"checkpoint: expected one of this network and method, got another's: {line}"
            ) from error
