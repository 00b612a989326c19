"""Prune in Lightning's own `Trainer`: a callback, and the optimizer of `configure_optimizers`.

    def configure_optimizers(self):
        curvature = secateur.curvature.RunningCurvature(self.model)
        return secateur.inference.Calibrated(self.model.named_parameters(), num_data=..., curvature=curvature)

    def pruner(optimizer):
        return secateur.GradualPruner(module.model, optimizer, schedule, observe=...)

    lightning.Trainer(callbacks=[PruningCallback(pruner)]).fit(module, loader)

Automatic optimisation gives the optimizer a closure, so draws need no callback; accumulated batches do. The
pruner's state is that of the callback in Lightning's checkpoints.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from secateur.errors import InvalidArgumentError
from secateur.inference import PosteriorOptimizer
from secateur.integrations.draw import StepDraw, check_optimizer, hold_what_is_loaded
from secateur.modules import held_masks, hold
from secateur.pruning import GradualPruner, PruneResult

__all__ = ["PruningCallback"]


class PruningCallback(Callback):
    """Train under draws from the posterior, and prune when due, in a `lightning.Trainer`.

    With a posterior optimizer, such as `Calibrated`, one draw is in for all batches of an optimizer step. The
    means are back for the step, and so for validation and checkpoints. A running curvature that the
    optimizer follows looks at the last batch of a step. In manual optimisation the training step itself
    encloses its passes in `optimizer.sampled_parameters()`. Averages of the weights that Lightning or the
    module keeps (`WeightAveraging`, `AveragedModel`) hold the same zeros.

    Args:
        pruner: Of the network and of the module's optimizer; or a function that makes it from the first
            optimizer of `configure_optimizers`.
        steps: Optimizer steps that the schedule counts as one epoch. None counts the Trainer's epochs.

    Attributes:
        pruner: The pruner; None until a fit has begun where a function makes it.
        results: What each pruning removed, since the callback was built.

    Raises:
        InvalidArgumentError: If `steps` is not positive; when a fit begins, if the optimizer is not the
            pruner's.
    """

    def __init__(
        self, pruner: GradualPruner | Callable[[Any], GradualPruner], *, steps: int | None = None
    ) -> None:
        if steps is not None and steps < 1:
            raise InvalidArgumentError(f"steps: expected at least 1, got {steps}")
        self._make = pruner
        self.pruner: GradualPruner | None = None
        if isinstance(pruner, GradualPruner):
            self.pruner = pruner
            hold_what_is_loaded(pruner.model)
        self.steps = steps
        self.results: list[PruneResult] = []
        self._saved: Mapping[str, Any] | None = None
        self._optimizer: Optimizer | None = None
        self._draw: StepDraw | None = None
        self._begun = self._stepped = False  # since the last optimizer step; in this batch

    # The pruner and its state -----------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._optimizer = self._find_optimizer(trainer.optimizers)
        pruner = self._make if isinstance(self._make, GradualPruner) else self._make(self._optimizer)
        if self.pruner is None or self.pruner.model is not pruner.model:
            hold_what_is_loaded(pruner.model)
        self.pruner = pruner
        if pruner.optimizer is not None and pruner.optimizer is not self._optimizer:
            raise InvalidArgumentError(
                f"configure_optimizers: expected the pruner's {type(pruner.optimizer).__name__}, got another "
                f"{type(self._optimizer).__name__}; give PruningCallback a function that makes the pruner "
                "from the optimizer"
            )
        check_optimizer(self._optimizer, pruner.model, "configure_optimizers")
        if isinstance(self._optimizer, PosteriorOptimizer):
            self._draw = StepDraw(pruner.model, self._optimizer)
            self._draw.attach()
        self._begun = self._stepped = False
        if self._saved is not None and trainer.ckpt_path is not None:  # it may be from an evaluation before
            pruner.load_state_dict(self._saved)
        self._saved = None
        self._hold_averages(trainer, pl_module)

    def _find_optimizer(self, optimizers: list[Optimizer]) -> Optimizer:
        if not optimizers:
            raise InvalidArgumentError(
                "configure_optimizers: expected an optimizer, got none; return secateur.inference.Calibrated"
            )
        own = self._make.optimizer if isinstance(self._make, GradualPruner) else None
        return next((each for each in optimizers if each is own), optimizers[0])

    def state_dict(self) -> dict[str, Any]:
        """Return the pruner's state; empty before a fit has begun."""
        return {} if self.pruner is None else self.pruner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold a checkpoint's masks where the network is known, and keep its state until a fit begins.

        Args:
            state_dict: What `state_dict()` returned.
        """
        self._saved = state_dict
        if self.pruner is not None:
            hold(self.pruner.model, state_dict["masks"])

    # The batches of an optimizer step ---------------------------------------------------------------------

    def on_train_batch_start(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._draw is not None and pl_module.automatic_optimization and not self._begun:
            self._begun = True
            self._draw.open()

    def on_before_optimizer_step(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if optimizer is self._optimizer:
            self._begun, self._stepped = False, True
            if self._draw is not None and pl_module.automatic_optimization:
                self._draw.close()

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._stepped:
            return
        self._stepped = False
        if self._draw is not None:
            self._draw.follow_curvature()
        # at the last batch of an epoch, not after it: the network that is validated and saved is pruned too
        done = trainer.global_step / self.steps if self.steps else float(trainer.current_epoch + 1)
        pruner = self.pruner
        if (self.steps or trainer.is_last_batch) and done.is_integer() and pruner and pruner.due(int(done)):
            result = pruner.step()
            self.results.append(result)
            self._hold_averages(trainer, pl_module)
            pl_module.log("sparsity", result.sparsity)

    # Where the means must be back -------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._draw is not None:
            self._draw.close()

    def on_exception(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._end()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._end()

    def _end(self) -> None:
        self._begun = self._stepped = False
        if self._draw is not None:
            self._draw.detach()

    def _hold_averages(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold the network's zeros in averages of its weights, which are networks of their own."""
        assert self.pruner is not None
        kept: list[Any] = [
            callback._average_model  # Lightning has no public name for it
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging)
        ]
        kept += [module for module in pl_module.modules() if isinstance(module, AveragedModel)]
        for average in kept:
            if average is None:
                continue
            own = pl_module if isinstance(average.module, LightningModule) else self.pruner.model
            hold(average.module, held_masks(own))
