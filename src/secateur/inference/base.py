"""What all optimisers over posteriors share: names, sampling in a context, masks, complete state.

A loop reads

    with optimizer.sampled_parameters():      # weights drawn from q; means back on exit, also on error
        loss = loss_fn(model(x), y)           # mean over the batch
        optimizer.zero_grad(); loss.backward()
    optimizer.step()

Scaling, for the whole library: losses are means over data, so the prior enters per datum. With N data and
`weight_decay` delta, the prior precision of a weight is N * delta.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.inference.flat import FlatParameters
from secateur.posterior import Posterior

__all__ = ["Block", "Moments", "PosteriorOptimizer", "adam_direction", "check_positive", "chosen"]


def chosen(name: str, include: Sequence[str] | None, exclude: Sequence[str] | None) -> bool:
    """Return whether a name matches a pattern of `include` (any name when None) and none of `exclude`.

    Args:
        name: Qualified parameter name.
        include: `fnmatch` patterns.
        exclude: `fnmatch` patterns; they win over `include`.
    """
    included = include is None or any(fnmatchcase(name, pattern) for pattern in include)
    return included and not any(fnmatchcase(name, pattern) for pattern in exclude or ())


def adam_direction(
    gradient: Tensor, first: Tensor, second: Tensor, step: Tensor, betas: tuple[float, float], eps: float
) -> Tensor:
    """Return Adam's update direction, moving the two running moments in place (arXiv:1412.6980, alg. 1)."""
    first.lerp_(gradient, 1 - betas[0])
    second.lerp_(gradient.square(), 1 - betas[1])
    corrected = first / (1 - betas[0] ** step)
    return corrected / ((second / (1 - betas[1] ** step)).sqrt() + eps)


class Block:
    """The parameters of one group that are treated alike, with the vectors an update keeps for them.

    Args:
        flat: The parameters as one vector.
        state: Named tensors that affect the next step; all of them are saved.
        group_index: Position of the parameter group the hyper-parameters come from.
    """

    def __init__(self, flat: FlatParameters, state: dict[str, Tensor], group_index: int) -> None:
        self.flat = flat
        self.state = state
        self.group_index = group_index
        # 1 where an entry stays, 0 where it is removed; None while all stay
        self.keep: Tensor | None = None
        self.mean = flat.read()
        self.drawn: dict[str, Tensor] = {}  # between a training draw and its step
        # a torch optimizer over flat vectors of `state`, where one is used
        self.inner: Optimizer | None = None

    def hold(self, masks: dict[str, Tensor]) -> Tensor:
        """Intersect the entries that stay with `masks`, and return 1 where they do and 0 elsewhere."""
        keep = self.flat.full(1.0) if self.keep is None else self.keep.clone()
        for name, view in self.flat.named(keep).items():
            if name in masks:
                view.mul_(masks[name].to(view))
        self.keep = keep
        return keep

    def saved(self) -> dict[str, Tensor]:
        """Return copies of every tensor the next step depends on, besides the parameters."""
        held = {} if self.keep is None else {"keep": self.keep}
        return {key: tensor.clone() for key, tensor in (self.state | held).items()}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Take over tensors that `saved` returned."""
        found = saved.keys() - {"keep"}
        if found != self.state.keys():
            raise ArtifactError(f"optimizer state: expected {sorted(self.state)}, got {sorted(found)}")
        for key, tensor in self.state.items():
            if saved[key].shape != tensor.shape:
                raise ArtifactError(
                    f"optimizer state {key!r}: expected shape {tuple(tensor.shape)}, got "
                    f"{tuple(saved[key].shape)}; it belongs to another network"
                )
            tensor.copy_(saved[key])
        self.keep = saved["keep"].to(self.mean, copy=True) if "keep" in saved else None


class Moments(dict[str, Tensor]):
    """Adam's zero-initialised moments and step count for one block."""

    def __init__(self, flat: FlatParameters) -> None:
        super().__init__(
            step=torch.zeros((), dtype=torch.float32, device=flat.parameters[0].device),
            first_moment=flat.full(0.0),
            second_moment=flat.full(0.0),
        )


class PosteriorOptimizer(Optimizer):
    """Base of the optimisers whose state is a posterior of the weights; not used by itself.

    The parameters without a posterior are trained as points, by Adam without decay.

    Args:
        params: `model.named_parameters()`, or groups `{"params": [(name, parameter), ...], ...}`.
        defaults: Hyper-parameters of a group.
        num_data: Number of training data N; the loss is a mean over a batch of them.
        include: Name patterns (`fnmatch`) of the parameters that get a posterior; all when None.
        exclude: Name patterns of parameters that do not, even if included.
        generator: Source of the noise, on the parameters' device; one seeded from torch's global
            generator when None. Its state is part of `state_dict`.
        compile: Compile the update into one fused pass (`torch.compile`); pays after some 1,000 steps.

    Raises:
        InvalidArgumentError: If parameters come without names, none is chosen, or `num_data` is not positive.
    """

    needs_sample = True

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
        if not num_data > 0:
            raise InvalidArgumentError(
                f"num_data: expected a positive number of training data, got {num_data}"
            )
        self._blocks: list[Block] = []
        self._points: list[Block] = []
        super().__init__(params, defaults)
        self.num_data = num_data
        self.compiled = compile
        self._samples_with_gradient = 0  # since the last step
        for index, group in enumerate(self.param_groups):
            if "param_names" not in group:
                raise InvalidArgumentError(
                    "params: expected named parameters, got unnamed ones; pass model.named_parameters()"
                )
            pairs = zip(group["param_names"], group["params"], strict=True)
            trained = [(name, parameter) for name, parameter in pairs if parameter.requires_grad]
            variational = [pair for pair in trained if chosen(pair[0], include, exclude)]
            points = [pair for pair in trained if not chosen(pair[0], include, exclude)]
            if variational:
                flat = _flatten(variational)
                self._blocks.append(Block(flat, self._new_state(flat, group), index))
            if points:
                flat = _flatten(points)
                self._points.append(Block(flat, Moments(flat), index))
        if not self._blocks:
            raise InvalidArgumentError(
                "include, exclude: expected at least one parameter to get a posterior, got "
                f"include={include}, exclude={exclude}"
            )
        device = self._blocks[0].mean.device
        if generator is None:
            generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
        self.generator = generator

    # What a method defines ------------------------------------------------------------------------------

    @abstractmethod
    def _new_state(self, flat: FlatParameters, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return the initial tensors a block keeps."""

    @abstractmethod
    def _draw(self, block: Block, group: dict[str, Any], *, training: bool) -> Tensor:
        """Return weights drawn from the current posterior, removed ones zero.

        When `training`, remember on the block what `_update` needs; else leave it as it is.
        """

    @abstractmethod
    def _update(self, block: Block, group: dict[str, Any], gradient: Tensor) -> Tensor:
        """Move the block's state by one step and return the new posterior mean, removed entries zero."""

    @abstractmethod
    def _moments(
        self, block: Block, group: dict[str, Any]
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        """Return flat mean, flat precision (or a number), and named prior precisions."""

    # What a loop uses -----------------------------------------------------------------------------------

    @contextmanager
    def sampled_parameters(self) -> Iterator[None]:
        """Put a draw from the posterior into the model; the means return on exit, also on error.

        Under `torch.no_grad()` the draw is for prediction only and leaves a pending step undisturbed.
        """
        training = torch.is_grad_enabled()
        with torch.no_grad():
            for block in self._blocks:
                block.mean = block.flat.read()
                group = self.param_groups[block.group_index]
                block.flat.write(self._draw(block, group, training=training))
        try:
            yield
        finally:
            for block in self._blocks:
                block.flat.write(block.mean)
            self._samples_with_gradient += training

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the posterior from the gradients taken inside `sampled_parameters()`.

        Args:
            closure: Clears the gradients, computes the loss and its gradients, and returns the loss; it is
                called inside `sampled_parameters()`.

        Returns:
            What `closure` returned, or None.

        Raises:
            InvalidArgumentError: If gradients were not taken under exactly one draw.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad(), self.sampled_parameters():
                loss = closure()
        if self.needs_sample and self._samples_with_gradient != 1:
            raise InvalidArgumentError(
                "step: expected one sampled_parameters() block with gradients before each step, got "
                f"{self._samples_with_gradient}; accumulate inside one block, predict under torch.no_grad()"
            )
        self._samples_with_gradient = 0
        for block in self._blocks:
            group = self.param_groups[block.group_index]
            block.mean = block.flat.read()
            block.flat.write(self._update(block, group, block.flat.read_gradient()))
        for block in self._points:
            state, lr = block.state, self.param_groups[block.group_index]["lr"]
            state["step"] += 1
            moments = state["first_moment"], state["second_moment"]
            direction = adam_direction(
                block.flat.read_gradient(), *moments, state["step"], (0.9, 0.999), 1e-8
            )
            block.flat.write(block.flat.read() - lr * direction)
        return loss

    def posterior(self, **options: Any) -> Posterior:
        """Return the current posterior of the parameters that have one, as a copy."""
        fields: dict[str, dict[str, Tensor]] = {
            "mean": {},
            "precision": {},
            "prior_precision": {},
            "keep": {},
        }
        for block in self._blocks:
            block.mean = block.flat.read()
            mean, precision, prior = self._moments(block, self.param_groups[block.group_index], **options)
            fields["mean"] |= block.flat.named(mean.clone())
            fields["precision"] |= block.flat.named(precision + torch.zeros_like(mean))
            fields["prior_precision"] |= prior
            if block.keep is not None:
                fields["keep"] |= block.flat.named(block.keep > 0)
        return Posterior(**fields)

    @torch.no_grad()
    def hold(self, masks: dict[str, Tensor]) -> None:
        """Remove entries for good: zero weight, no noise, and no step ever brings them back.

        Args:
            masks: Where each parameter stays (True or 1), keyed by qualified name; names without a
                posterior are left alone, since `torch.nn.utils.prune` masks those in the model.
        """
        for block in self._blocks:
            block.flat.write(block.flat.read() * block.hold(masks))

    # Complete state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on besides the parameters, noise generator included."""
        state = super().state_dict()
        state["posterior"] = {
            "blocks": [block.saved() for block in self._blocks],
            "inner": [block.inner.state_dict() for block in self._blocks if block.inner is not None],
            "points": [block.saved() for block in self._points],
            "generator": self.generator.get_state(),
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where the optimizer that gave `state_dict` stood.

        Args:
            state_dict: What `state_dict()` returned for the same parameters.

        Raises:
            ArtifactError: If it belongs to other parameters or another method.
        """
        saved = dict(state_dict)
        own = saved.pop("posterior", None)
        if own is None:
            raise ArtifactError("optimizer state: expected a posterior optimizer's, got another optimizer's")
        super().load_state_dict(saved)
        for kind, blocks in (("blocks", self._blocks), ("points", self._points)):
            if len(own[kind]) != len(blocks):
                raise ArtifactError(f"optimizer state: expected {len(blocks)} {kind}, got {len(own[kind])}")
            for block, tensors in zip(blocks, own[kind], strict=True):
                block.restore(tensors)
        for block, inner in zip([block for block in self._blocks if block.inner], own["inner"], strict=True):
            assert block.inner is not None
            block.inner.load_state_dict(inner)
        self.generator.set_state(own["generator"].cpu())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group while the optimizer is being built; later it is refused.

        Args:
            param_group: As for any torch optimizer.

        Raises:
            InvalidArgumentError: If the optimizer is already built.
        """
        if self._blocks:
            raise InvalidArgumentError("param_group: expected all groups at construction, got a late one")
        super().add_param_group(param_group)

    def _scalar(self, block: Block, value: float) -> Tensor:
        # A 0-dim tensor filled on the device: no synchronisation, and a compiled pass is not rebuilt when
        # a schedule moves the value.
        return torch.full((), value, dtype=block.mean.dtype, device=block.mean.device)

    def _kernel(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False) if self.compiled else function


def _flatten(pairs: list[tuple[str, nn.Parameter]]) -> FlatParameters:
    return FlatParameters([name for name, _ in pairs], [parameter for _, parameter in pairs])


def check_positive(**values: float) -> None:
    """Raise if a hyper-parameter is not a positive finite number.

    Args:
        **values: Hyper-parameters by name.

    Raises:
        InvalidArgumentError: Naming the first that is not.
    """
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise InvalidArgumentError(f"{name}: expected a positive finite number, got {value}")
