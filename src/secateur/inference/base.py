"""What all optimisers over posteriors share: names, sampling in a context, masks, complete state.

A loop reads

    with optimizer.sampled_parameters():      # weights drawn from q; means back on exit, also on error
        loss = loss_fn(model(x), y)           # mean over the batch
        optimizer.zero_grad(); loss.backward()
    optimizer.step()

Scaling, for the whole library: losses are means over data, so the prior enters per datum. With N data and
`weight_decay` delta, the prior precision of a weight is N * delta.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur import distributed
from secateur.curvature import RunningCurvature
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.inference.arguments import check_decay_rates, check_positive
from secateur.inference.block import Moments, ParameterBlock, adam_direction
from secateur.inference.ranks import require_alike, without_prefix
from secateur.inference.state import check_state, gather_state, restore_state
from secateur.modules import chosen, layer_of
from secateur.modules import masks as model_masks
from secateur.posterior import Posterior

__all__ = ["PosteriorOptimizer"]


@dataclass
class _Draws:
    """Counts of draws: one object, which a wrapper that imitates the optimizer's class has too.

    Attributes:
        depth: Nested `sampled_parameters()` blocks that are open.
        with_gradient: Blocks with gradients since the last step, or since the gradients were cleared.
    """

    depth: int = 0
    with_gradient: int = 0


class PosteriorOptimizer(Optimizer):
    """Base of the optimisers whose state is a posterior of the weights; not used by itself.

    The parameters without a posterior are trained as points, by Adam without decay. In a process group all
    ranks judge one averaged gradient by one draw: before the first draw they are found to have the same
    weights, settings and generator, and take over rank 0's generator where none was given.

    Args:
        params: `model.named_parameters()`, or groups `{"params": [(name, parameter), ...], ...}`. In a
            process group the prefix of `DistributedDataParallel`, "module.", is taken off the names.
        defaults: Hyper-parameters of a group.
        num_data: Number of training data N; the loss is a mean over a batch of them.
        include: Name patterns (`fnmatch`) of the parameters that get a posterior; all when None.
        exclude: Name patterns of parameters that do not, even if included.
        generator: Source of the noise, on the parameters' device; one seeded from torch's global
            generator when None. Its state is part of `state_dict`. Predictions draw from it too.
        compile: Compile the update into one fused pass (`torch.compile`); pays after some 1,000 steps.

    Raises:
        InvalidArgumentError: If parameters come without names or with one name twice, none is chosen, a
            hyper-parameter is out of range, or the generator is on another device.
    """

    needs_sample = True
    divides_blocks = False  # whether draws and steps go part by part
    takes_shards = False  # whether parameters may be divided over processes
    holds_masks = True  # masks held in the model stay zero by the optimizer's own doing
    positive: tuple[str, ...] = ("lr",)  # hyper-parameters of a group that must be

    def __init__(
        self,
        params: Iterable[Any],
        defaults: dict[str, Any],
        *,
        num_data: int,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        compile: bool = False,
    ) -> None:
        check_positive(num_data=num_data)
        self._blocks: list[ParameterBlock] = []
        self._points: list[ParameterBlock] = []
        super().__init__(params, defaults)
        self.num_data = num_data
        self.compiled = compile
        self._draws = _Draws()
        self._masks_version: int | None = None  # of the masks held in models, when last looked at
        self._ranks_agree = False  # found when they last drew together
        self.last_layer = layer_of(self._names()[-1])  # of the network, whatever the groups
        for index, group in enumerate(self.param_groups):
            pairs = zip(group["param_names"], group["params"], strict=True)
            trained = [(name, parameter) for name, parameter in pairs if parameter.requires_grad]
            variational = [pair for pair in trained if chosen(pair[0], include, exclude)]
            points = [pair for pair in trained if not chosen(pair[0], include, exclude)]
            if variational:
                block = ParameterBlock(
                    *_names_and_parameters(variational), group_index=index, divided=self.divides_blocks
                )
                block.state = self._new_state(block, group)
                self._blocks.append(block)
            if points:
                block = ParameterBlock(*_names_and_parameters(points), group_index=index)
                block.state = Moments(block)
                self._points.append(block)
        if not self._blocks:
            raise InvalidArgumentError(
                "include, exclude: expected at least one parameter to get a posterior, got "
                f"include={include}, exclude={exclude}"
            )
        if any(block.shards for block in self._blocks) and not self.takes_shards:
            raise InvalidArgumentError(
                f"params: expected whole parameters for {type(self).__name__}, got some in shards; take "
                "DistributedDataParallel, or Calibrated or IVON"
            )
        device = self._blocks[0].device
        self._seeded_here = generator is None
        if generator is None:
            generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
        for block in self._blocks:
            if block.device != generator.device:
                raise InvalidArgumentError(
                    f"generator: expected one on the parameters' device {block.device}, got one on "
                    f"{generator.device}"
                )
        self.generator = generator

    # What a method defines ------------------------------------------------------------------------------

    @abstractmethod
    def _new_state(self, block: ParameterBlock, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return the initial tensors a block keeps."""

    def _draw(self, block: ParameterBlock, group: dict[str, Any], *, training: bool) -> Tensor:
        """Return weights drawn from the current posterior, removed ones zero.

        When `training`, remember on the block what `_update` needs; else leave it as it is.
        """
        raise NotImplementedError

    def _update(self, block: ParameterBlock, group: dict[str, Any], gradient: Tensor) -> Tensor:
        """Move the block's state by one step and return the new posterior mean, removed entries zero."""
        raise NotImplementedError

    def _put_draw(self, block: ParameterBlock, group: dict[str, Any], *, training: bool) -> None:
        """Write a draw into the parameters; a method that goes part by part overrides this, not `_draw`."""
        block.write(self._draw(block, group, training=training))

    def _take_step(self, block: ParameterBlock, group: dict[str, Any]) -> None:
        """Write new means into the parameters; a method that goes part by part overrides this."""
        (whole,) = block.parts
        block.means = block.read()
        try:
            block.write(self._update(block, group, block.gather(block.gradients(), whole)))
        finally:
            block.means = None

    @abstractmethod
    def _moments(
        self, block: ParameterBlock, group: dict[str, Any]
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        """Return flat mean, flat precision (or a number), and named prior precisions."""

    # What a loop uses -----------------------------------------------------------------------------------

    @contextmanager
    def sampled_parameters(self) -> Iterator[None]:
        """Put a draw from the posterior into the model; the means return on exit, also on error.

        Under `torch.no_grad()` the draw is for prediction only and leaves a pending step undisturbed, also
        inside another block, whose draw then returns. A block that ends in an error counts for nothing.
        """
        training = torch.is_grad_enabled()
        self._follow_masks()
        if training and not self._ranks_agree and distributed.num_ranks() > 1:
            self.require_alike(adopt=self._seeded_here)
            self._ranks_agree = True
        generator_state = self.generator.get_state() if distributed.is_alone() else None
        before = [block.read() for block in self._blocks]
        outermost = self._draws.depth == 0
        try:
            for block, weights in zip(self._blocks, before, strict=True):
                if outermost:
                    block.means = weights
                with torch.no_grad():
                    self._put_draw(block, self.param_groups[block.group_index], training=training)
            self._draws.depth += 1
            try:
                yield
            finally:
                self._draws.depth -= 1
        finally:
            for block, weights in zip(self._blocks, before, strict=True):
                block.write(weights)
                if outermost:
                    block.means = None
            if generator_state is not None:
                self.generator.set_state(generator_state)
        self._draws.with_gradient += training

    def require_alike(self, *, adopt: bool = False) -> None:
        """Refuse ranks with different weights, settings, states or generators; change nothing then.

        Args:
            adopt: Take over rank 0's generator.

        Raises:
            InvalidArgumentError: On every rank, naming what differs first.
        """
        blocks = [*self._blocks, *self._points]
        require_alike(self.param_groups, blocks, self.num_data, self.generator, adopt=adopt)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and with them what they were taken under.

        So a loop that skips a step, as a gradient scaler does on overflow, goes on with the next draw.

        Args:
            set_to_none: Whether to drop the gradients rather than fill them with zeros.
        """
        super().zero_grad(set_to_none)
        self._draws.with_gradient = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the posterior from the gradients taken inside `sampled_parameters()`.

        Entries that a mask of the model removes (`secateur.modules.masks`) get no noise and stay zero.

        Args:
            closure: Clears the gradients, computes the loss and its gradients, and returns the loss. It is
                called inside `sampled_parameters()`, unless gradients were taken under a draw before; a
                block that is open has to end inside it.

        Returns:
            What `closure` returned, or None.

        Raises:
            InvalidArgumentError: If gradients were not taken under exactly one draw, which has ended.
        """
        loss = None
        if closure is not None:
            # trainers put more than the loss into a closure, or give an empty one
            begun = self._draws.depth or self._draws.with_gradient
            with torch.enable_grad(), nullcontext() if begun else self.sampled_parameters():
                loss = closure()
        self._outside("step")
        self._follow_masks()
        num_samples, self._draws.with_gradient = self._draws.with_gradient, 0
        if self.needs_sample and num_samples != 1:
            raise InvalidArgumentError(
                "step: expected one sampled_parameters() block with gradients before each step, got "
                f"{num_samples}; accumulate inside one block, predict under torch.no_grad()"
            )
        for block in self._blocks:
            self._take_step(block, self.param_groups[block.group_index])
            block.drawn = {}
        for block in self._points:
            self._step_points(block, self.param_groups[block.group_index])
        return loss

    def _step_points(self, block: ParameterBlock, group: dict[str, Any]) -> None:
        (whole,), state = block.parts, block.state
        state["step"] += 1
        moments = state["first_moment"], state["second_moment"]
        gradient = block.gather(block.gradients(), whole)
        direction = adam_direction(gradient, *moments, state["step"], (0.9, 0.999), 1e-8)
        moved = block.read() - group["lr"] * direction
        block.write(moved if block.keep is None else moved * block.keep)

    @torch.no_grad()
    def posterior(self, **options: Any) -> Posterior:
        """Return the current posterior of the parameters that have one, as a copy."""
        self._follow_masks()
        fields: dict[str, dict[str, Tensor]] = {
            "mean": {},
            "precision": {},
            "prior_precision": {},
            "keep": {},
        }
        for block in self._blocks:
            mean, precision, prior = self._moments(block, self.param_groups[block.group_index], **options)
            if not isinstance(precision, Tensor):
                precision = torch.full_like(mean, precision)
            fields["mean"] |= block.whole(mean.clone() if mean is block.means else mean)
            fields["precision"] |= block.whole(precision)
            fields["prior_precision"] |= prior
            if block.keep is not None:
                fields["keep"] |= block.whole(block.keep > 0)
        return Posterior(**fields)

    @torch.no_grad()
    def _follow_masks(self) -> None:
        """Take over the masks held in the model, if any changed since the last look."""
        if self._draws.depth or model_masks.version() == self._masks_version:
            return
        self._masks_version = model_masks.version()
        for block in [*self._blocks, *self._points]:
            block.follow_model()

    @property
    def curvature(self) -> RunningCurvature | None:
        """Running curvature of the network in training that the optimizer follows, None where it does not."""
        return None

    @property
    def curvature_has_settled(self) -> bool:
        """Whether enough steps were taken for the precision to say something of the data."""
        return True

    @torch.no_grad()
    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Remove entries for good: zero weight, no noise, and no step ever brings them back.

        Args:
            masks: Where each parameter stays (True or 1), keyed by qualified name. Parameters without a
                posterior are left alone: hold those in the model, whose masks the optimizer follows.

        Raises:
            InvalidArgumentError: If a name or a shape is not that of a parameter; nothing is then held.
        """
        self._outside("hold")
        if unknown := masks.keys() - set(self._names()):
            raise InvalidArgumentError(
                f"masks: expected names of the optimizer's parameters, got {sorted(unknown)[0]!r}"
            )
        for block in self._blocks:
            block.check_masks(masks)
        for block in self._blocks:
            block.hold(masks)

    # Complete state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on besides the parameters, noise generator included."""
        self._follow_masks()
        own = gather_state(self._blocks, self._points, self.generator)
        return {**super().state_dict(), "posterior": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where the optimizer that gave `state_dict` stood.

        Args:
            state_dict: What `state_dict()` returned for the same parameters.

        Raises:
            ArtifactError: If it belongs to other parameters or another method; nothing is then changed.
        """
        self._outside("load_state_dict")
        if "posterior" not in state_dict:
            raise ArtifactError("optimizer state: expected a posterior optimizer's, got another optimizer's")
        own = state_dict["posterior"]
        names = [group["param_names"] for group in self.param_groups]
        saved_names = [group.get("param_names", ()) for group in state_dict["param_groups"]]
        check_state(own, self._blocks, self._points, names=names, saved_names=saved_names)
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "posterior"})
        for group in self.param_groups:
            for key, default in self.defaults.items():
                if isinstance(default, tuple):
                    group[key] = tuple(group[key])  # files without pickle know only lists
        restore_state(own, self._blocks, self._points, self.generator)
        self._draws.with_gradient = 0
        self._seeded_here = self._ranks_agree = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group while the optimizer is being built; later it is refused.

        Args:
            param_group: As for any torch optimizer.

        Raises:
            InvalidArgumentError: If the optimizer is already built, or the group is not as the class demands.
        """
        if self._blocks:
            raise InvalidArgumentError("param_group: expected all groups at construction, got a late one")
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if "param_names" not in group:
            raise InvalidArgumentError(
                "params: expected named parameters, got unnamed ones; pass model.named_parameters()"
            )
        group["param_names"] = without_prefix(group["param_names"])
        if len(set(self._names())) < len(self._names()):
            raise InvalidArgumentError("params: expected each name once, got parameters that share one")
        check_positive(**{name: group[name] for name in self.positive})
        if "betas" in group:
            check_decay_rates(group["betas"])

    def _names(self) -> list[str]:
        return [name for group in self.param_groups for name in group["param_names"]]

    def _outside(self, action: str) -> None:
        if self._draws.depth:
            raise InvalidArgumentError(
                f"{action}: expected a call after the sampled_parameters() block, got one inside it"
            )

    def _scalar(self, block: ParameterBlock, value: float) -> Tensor:
        # A 0-dim tensor filled on the device: no synchronisation, and a compiled pass is not rebuilt when
        # a schedule moves the value.
        return torch.full((), value, dtype=block.dtype, device=block.device)

    def _kernel(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False) if self.compiled else function


def _names_and_parameters(pairs: list[tuple[str, nn.Parameter]]) -> tuple[list[str], list[nn.Parameter]]:
    return [name for name, _ in pairs], [parameter for _, parameter in pairs]
