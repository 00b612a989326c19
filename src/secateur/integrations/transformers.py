"""Prune in the Transformers library's own `Trainer`: a callback, and an optimizer given to it.

    curvature = secateur.curvature.RunningCurvature(model)
    optimizer = secateur.inference.Calibrated(model.named_parameters(), num_data=..., curvature=curvature)
    pruner = secateur.GradualPruner(model, optimizer, schedule, observe=...)
    trainer = Trainer(model, args, ..., optimizers=(optimizer, None), callbacks=[PruningCallback(pruner)])

The Trainer saves the pruner's state with the optimizer's, in `optimizer.pt`, and so resumes it.
"""

from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secateur.errors import InvalidArgumentError
from secateur.inference import PosteriorOptimizer
from secateur.integrations.draw import StepDraw, check_optimizer, hold_what_is_loaded
from secateur.pruning import GradualPruner, PruneResult

__all__ = ["PruningCallback"]

KEY = "pruner"  # in the optimizer's state
REMEDY = "give Trainer optimizers=(optimizer, None) and callbacks=[PruningCallback(pruner)]"


class PruningCallback(TrainerCallback):
    """Train under draws from the posterior, and prune when due, in a `transformers.Trainer`.

    With a posterior optimizer, such as `Calibrated`, one draw is in for all batches of an optimizer step. The
    means are back for the step, and so for evaluation, saving and logging. A running curvature that the
    optimizer follows looks at the last batch of a step.

    Args:
        pruner: Of the Trainer's model, and of its optimizer where that has a posterior.
        steps: Optimizer steps that the schedule counts as one epoch. None counts the Trainer's epochs.

    Attributes:
        pruner: As given.
        results: What each pruning removed, since the Trainer was built.

    Raises:
        InvalidArgumentError: If `steps` is not positive; by the Trainer, if its model or optimizer is not the
            pruner's.
    """

    def __init__(self, pruner: GradualPruner, *, steps: int | None = None) -> None:
        if steps is not None and steps < 1:
            raise InvalidArgumentError(f"steps: expected at least 1, got {steps}")
        self.pruner, self.steps = pruner, steps
        self.results: list[PruneResult] = []
        self._optimizer: Optimizer | None = None
        self._draw: StepDraw | None = None
        hold_what_is_loaded(pruner.model)

    def on_init_end(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        self._follow(given["model"], given["optimizer"])

    def _follow(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        """Take the Trainer's optimizer, and save the pruner's state with its."""
        pruner = self.pruner
        if model is not pruner.model:
            raise InvalidArgumentError(
                f"Trainer: expected the pruner's {type(pruner.model).__name__} as its model, got another "
                f"{type(model).__name__}; give both the same network"
            )
        if optimizer is None or optimizer is not (pruner.optimizer or optimizer):
            expected = (
                "one" if pruner.optimizer is None else f"the pruner's {type(pruner.optimizer).__name__}"
            )
            got = "none" if optimizer is None else type(optimizer).__name__
            raise InvalidArgumentError(f"Trainer: expected {expected} as its optimizer, got {got}; {REMEDY}")
        check_optimizer(optimizer, model, "Trainer")
        self._optimizer = optimizer
        if isinstance(optimizer, PosteriorOptimizer):
            self._draw = StepDraw(model, optimizer)

        def save(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
            return {**state, KEY: pruner.state_dict()}

        def load(_: Optimizer, state: dict[str, Any]) -> None:
            if KEY in state:  # none in a checkpoint from before the callback
                pruner.load_state_dict(state[KEY])

        optimizer.register_state_dict_post_hook(save)
        optimizer.register_load_state_dict_pre_hook(load)

    def on_train_begin(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if self._optimizer is None:
            raise InvalidArgumentError(
                f"PruningCallback: expected to be there when the Trainer is built, got added later; {REMEDY}"
            )
        check_optimizer(self._optimizer, given["model"], "Trainer")
        if self._draw is not None:
            self._draw.attach()

    def on_step_begin(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if self._draw is not None:
            self._draw.open()

    def on_pre_optimizer_step(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if self._draw is not None:
            self._draw.close()

    def on_optimizer_step(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if self._draw is not None:
            self._draw.follow_curvature()

    def on_step_end(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        # at the last step of an epoch, not after it: what is saved and evaluated at that step is pruned too
        done = float(state.epoch or 0) if self.steps is None else state.global_step / self.steps
        if done.is_integer() and self.pruner.due(int(done)):
            result = self.pruner.step()
            self.results.append(result)
            state.log_history.append({
                "epoch": state.epoch,
                "step": state.global_step,
                "sparsity": result.sparsity,
                "num_removed": result.num_removed,
                "predicted_delta_f": result.predicted_delta_f,
                "observed_delta_f": result.observed_delta_f,
            })

    def on_epoch_end(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if self._draw is not None:  # of a step that another callback broke off
            self._draw.close()

    def on_train_end(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if self._draw is not None:
            self._draw.detach()
