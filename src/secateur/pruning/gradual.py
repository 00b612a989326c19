"""Gradual pruning: remove a share, observe the loss, halve or skip, move the mean, hold.

delta_f rests on a Gaussian about the present weights, so it is a local claim. Each removal is therefore
observed before it is made, on training data: where the loss would rise too far above the best seen so far,
the removal is halved, and after `NUM_HALVINGS` skipped. An optimizer that follows a running curvature gives
joint posteriors of the layers (`secateur.pruning.joint_step`): what stays moves, and the evidence is measured
too. Otherwise entries are independent, and their summed evidence is optimistic.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.curvature import RunningCurvature
from secateur.distributed import facts_of, from_first, num_ranks, require_same, together
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.inference import PosteriorOptimizer
from secateur.modules import has_batch_norm, held_masks, hold, reestimate, require_whole, unwrapped
from secateur.posterior import Posterior
from secateur.pruning.independent import NUM_HALVINGS, IndependentRemoval
from secateur.pruning.joint_round import JointRound
from secateur.pruning.joint_step import JointStep, by_weight, joint_step, size_at
from secateur.pruning.observing import Observe, Observer
from secateur.pruning.prune import hold_removal, with_masks
from secateur.pruning.result import PruneResult, sum_where
from secateur.pruning.rounds import applied, removable_weights
from secateur.pruning.schedule import Schedule
from secateur.pruning.shrinkage import narrow_priors, require_adaptive
from secateur.reduction.own_prior import MOST_ROWS

__all__ = ["GradualPruner", "PruningWarning"]


class PruningWarning(UserWarning):
    """A pruning that may not do what was meant; the message says what to change."""


class GradualPruner:
    """Prune a network in steps while it trains, each step observed before it is made.

        pruner = GradualPruner(model, optimizer, schedule, observe=loss_on_some_data)
        for epoch in range(epochs):
            train(model, optimizer)
            if pruner.due(epoch):
                result = pruner.step()

    In a process group all ranks prune together: losses are averaged over them, and rank 0 decides.

    Args:
        model: The network, pruned in place; its zeros are held through later training. That inside a
            `DistributedDataParallel` is pruned under its own names.
        optimizer_or_posterior: A posterior optimizer such as `Calibrated`; if it follows a running curvature,
            removal is joint. Or a posterior, which is conditioned on each removal; or a function that returns
            the present posterior, such as a call of `laplace`.
        schedule: When to prune, and how much at once.
        observe: Returns the loss on some training data, in nats per datum, called with the model in
            evaluation mode (or with nothing). None trusts the evidence alone.
        sparsity: Share of all the network's weights to be out at the end; the evidence decides when None.
        criterion: What a target sparsity ranks by, one of `criteria.CRITERIA`.
        hyperprior: "full" or "tiered" narrows priors to a regularised horseshoe instead of removing by
            spike and slab; needs `FlatFF(adaptive=True)`.
        include: Name patterns (`fnmatch`) of parameters that may go.
        exclude: Name patterns of parameters that stay. Embeddings and the output layer stay unless `include`
            names them.
        num_data: Number of training data, for the observed evidence; that of the optimizer when None.
        calibration: Inputs to take the moments of batch normalisation from after each removal.

    Attributes:
        num_steps: Steps done.
        best_loss: Lowest loss observed, in nats per datum.
        optimizer: The posterior optimizer, None where another posterior was given.
        removed_delta_f: Predicted evidence of all that was removed, by parameter, in nats; of a
            joint removal by the weight of each layer.

    Raises:
        InvalidArgumentError: If an argument is out of range or a target out of reach.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer_or_posterior: Any,
        schedule: Schedule,
        *,
        observe: Observe | None,
        sparsity: float | None = None,
        criterion: str = "evidence",
        hyperprior: str | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        num_data: int | None = None,
        calibration: Tensor | None = None,
    ) -> None:
        if sparsity is not None and not 0 <= sparsity < 1:
            raise InvalidArgumentError(f"sparsity: expected a fraction in [0, 1), got {sparsity}")
        source: PosteriorOptimizer | Posterior | Callable[[], Posterior] = optimizer_or_posterior
        if not isinstance(source, PosteriorOptimizer | Posterior) and (
            isinstance(source, torch.optim.Optimizer) or not callable(source)
        ):
            raise InvalidArgumentError(
                "optimizer_or_posterior: expected a posterior optimizer, a Posterior or a function that "
                f"returns one, got {type(source).__name__}; train with secateur.inference.Calibrated, or "
                "give lambda: secateur.inference.laplace(model, loader)"
            )
        model = unwrapped(model)
        require_whole(dict(model.named_parameters()))
        self.model, self.schedule, self.sparsity = model, schedule, sparsity
        self.criterion, self.hyperprior = criterion, hyperprior
        self.include, self.exclude, self.calibration = include, exclude, calibration
        self.optimizer = source if isinstance(source, PosteriorOptimizer) else None
        self._source, self._observer = source, Observer(model, observe, calibration)
        self._independent = IndependentRemoval(model, schedule, criterion, include, exclude)
        self.num_data = source.num_data if isinstance(source, PosteriorOptimizer) else num_data
        self.num_steps, self.best_loss, self._told_of_moments = 0, math.inf, False
        self.removed_delta_f: dict[str, float] = {}
        if hyperprior is not None:
            require_adaptive(source)
        if sparsity is not None and not callable(source):  # a target out of reach is refused at once
            if self._curvature is None:
                self._independent.to_sparsity(self._posterior(), sparsity)
            else:
                size_at(sparsity, removable_weights(model, include, exclude), model)

    def due(self, epoch: int) -> bool:
        """Return whether to prune now.

        Args:
            epoch: Epoch that has ended, counted as the schedule counts.
        """
        return self.schedule.due(epoch)

    @together()
    def step(self) -> PruneResult:
        """Remove what the evidence allows now, hold it out, and compare the prediction with the observation.

        Returns:
            What was removed; it may be nothing.
        """
        self._require_alike()
        self._warn_if_early()
        before = self._posterior()
        values: dict[str, Tensor] | None = None
        if self.hyperprior is not None:
            result = self._narrow(before)
        elif self._curvature is not None:
            done = self._jointly(before, self._curvature)
            result, values = done.result, done.values
        elif self.sparsity is None:
            result = self._independent.within(before, self._observer, best_loss=self.best_loss)
        else:
            target = self.schedule.target(self.sparsity, number=self.num_steps + 1)
            result = self._independent.to_sparsity(before, target)
            result = result.measured(
                self._observer.loss_of_removal(before, before.keep),
                self._observer.loss_of_removal(before, result.masks),
            )
        self._hold(before, result, values)
        self.num_steps += 1
        self.best_loss = min(self.best_loss, result.loss_before)
        if values is None:
            evidence = {
                name: sum_where(result.delta_f[name], before.present(name) & ~mask)
                for name, mask in result.masks.items()
            }
            result = replace(result, observed_delta_f=self._observed(before, result))
        else:
            evidence = by_weight(result)
        for name, value in evidence.items():
            self.removed_delta_f[name] = self.removed_delta_f.get(name, 0.0) + value
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on besides model and optimizer."""
        return {
            "num_steps": self.num_steps,
            "best_loss": self.best_loss,
            "removed_delta_f": dict(self.removed_delta_f),
            "masks": held_masks(self.model),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken; the model is held at its masks.

        Args:
            state_dict: What `state_dict()` returned for the same network.

        Raises:
            ArtifactError: If it is of another pruner or network; nothing is then changed.
        """
        expected = {"num_steps", "best_loss", "removed_delta_f", "masks"}
        if missing := expected - state_dict.keys():
            raise ArtifactError(
                f"pruner state: expected {sorted(missing)[0]!r}, got none; it is another object's"
            )
        try:
            hold(self.model, state_dict["masks"])
        except InvalidArgumentError as error:
            raise ArtifactError(
                f"pruner state: expected that of this network, got another's: {error}"
            ) from error
        self.num_steps, self.best_loss = int(state_dict["num_steps"]), float(state_dict["best_loss"])
        self.removed_delta_f = dict(state_dict["removed_delta_f"])

    # The posterior, the loss, the removal -----------------------------------------------------------------

    def _posterior(self) -> Posterior:
        source = self._source
        if self.optimizer is not None:
            posterior = self.optimizer.posterior()
        else:
            posterior = source if isinstance(source, Posterior) else source()  # type: ignore[operator]
        return with_masks(posterior, held_masks(self.model))

    @property
    def _curvature(self) -> RunningCurvature | None:
        """The running curvature of the optimizer, where it decides what goes."""
        if self.optimizer is None or self.criterion != "evidence":
            return None
        return self.optimizer.curvature

    def _jointly(self, before: Posterior, curvature: RunningCurvature) -> JointStep:
        """Return a removal under the joint posterior of each layer, with the move of what stays."""
        assert self.num_data is not None
        weights = removable_weights(self.model, self.include, self.exclude)
        present = curvature.value(self.num_data)
        if self.include is None:  # not what the network uses otherwise, such as a table of positions
            weights = weights.among({
                name for name, layer in present.parameters().items() if layer is not None
            })
        joint = JointRound.of(present, dict(self.model.named_parameters()), weights, num_rows=MOST_ROWS)
        out, total = weights.num_out, weights.num_weights
        if self.sparsity is None:
            most = min(
                math.floor(self.schedule.max_fraction * (total - out)),
                max(0, round(self.schedule.max_sparsity * total) - out),
            )
            sizes = [out + most // 2**halving for halving in range(NUM_HALVINGS + 1)]
        else:
            target = self.schedule.target(self.sparsity, number=self.num_steps + 1)
            sizes = [size_at(target, weights, self.model)]
        return joint_step(
            joint,
            before,
            sizes,
            self._observer.loss,
            num_data=self.num_data,
            best_loss=self.best_loss,
            max_loss_rise=self.schedule.max_loss_rise,
            to_target=self.sparsity is not None or self._observer.observe is None,
        )

    def _narrow(self, before: Posterior) -> PruneResult:
        """Narrow the optimizer's priors to a regularised horseshoe, and return what falls out."""
        loss_before = self._observer.loss_of_removal(before, before.keep)
        ceiling = min(self.best_loss, loss_before) + self.schedule.max_loss_rise
        done, loss_after = narrow_priors(
            require_adaptive(self._source),
            before,
            lambda masks: self._observer.loss_of_removal(before, masks),
            hyperprior=self.hyperprior or "tiered",
            ceiling=math.nan if self._observer.observe is None else ceiling,
            exclude=self._independent.spared(before),
        )
        return done.result.measured(loss_before, loss_after)

    def _hold(self, before: Posterior, result: PruneResult, values: Mapping[str, Tensor] | None) -> None:
        """Hold a removal in model and optimizer, move the means of what stays, and warn where that is due."""
        if values is None:
            hold_removal(self.model, before, result.masks)
        else:
            with applied(self.model, values):
                hold(self.model, result.masks)
        if self.optimizer is not None:
            self.optimizer.hold(result.masks)
        elif isinstance(self._source, Posterior):
            self._source = before.given(result.masks)
        for name, mask in result.masks.items():
            if mask.dim() > 1 and not mask.any() and before.present(name).any():
                _warn(f"{name}: expected a layer to keep some weights, got none left; exclude it")
        if self.calibration is not None:
            reestimate(self.model, self.calibration)
            from_first([buffer for _, buffer in self.model.named_buffers()])
        elif result.num_removed and has_batch_norm(self.model) and not self._told_of_moments:
            self._told_of_moments = True
            _warn(
                "batch normalisation: its moments are those of the weights before the removal; give "
                "GradualPruner calibration=inputs, or pass training data through the model in training mode"
            )

    def _observed(self, before: Posterior, result: PruneResult) -> float:
        """Return the measured change of the evidence lower bound, in nats; nan where nothing was measured."""
        if self._observer.observe is None or self.num_data is None:
            return math.nan
        # a point has no posterior to diverge from its prior: only its loss can be compared
        divergence = 0.0
        if not before.is_point:
            after = self.optimizer.posterior() if self.optimizer is not None else before.given(result.masks)
            divergence = float(before.kl_divergence() - after.kl_divergence())
        return self.num_data * (result.loss_before - result.loss_after) + divergence

    def _require_alike(self) -> None:
        """Refuse ranks that would not remove the same; batch norm's moments are from here on rank 0's."""
        if num_ranks() == 1:
            return
        if self.optimizer is not None:
            self.optimizer.require_alike()
        parameters = {name: each.detach() for name, each in self.model.named_parameters()}
        masks = {name: mask.double() for name, mask in held_masks(self.model).items()}
        options = ("schedule", "sparsity", "criterion", "hyperprior", "include", "exclude")
        require_same(
            facts_of(parameters)
            | {f"mask of {name}": count for name, count in facts_of(masks).items()}
            | {name: str(getattr(self, name)) for name in options}
            | {"num_data": self.num_data, "num_steps": self.num_steps, "best_loss": self.best_loss},
            advice="build model, optimizer and pruner alike on every rank",
        )
        from_first([buffer for _, buffer in self.model.named_buffers()])

    def _warn_if_early(self) -> None:
        if self.optimizer is not None and not self.optimizer.curvature_has_settled:
            _warn(
                "GradualPruner.step: expected a posterior whose curvature has settled, got one after too few "
                "optimizer steps; start later, for example with Schedule.over(epochs, steps_per_epoch=...)"
            )


def _warn(message: str) -> None:
    warnings.warn(message, PruningWarning, stacklevel=3)
