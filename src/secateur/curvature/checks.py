"""Refusals of parameters that cannot be studied, and of weights and data that are not finite."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from secateur.curvature.batches import Batch
from secateur.curvature.capture import Capture
from secateur.errors import InvalidArgumentError
from secateur.likelihoods.finite import all_finite
from secateur.modules.names import matching
from secateur.modules.shards import require_whole

__all__ = [
    "require_finite_batch",
    "require_finite_outputs",
    "require_finite_weights",
    "require_visible_activations",
    "studied_parameters",
]

REENTRANT = "CheckpointFunctionBackward"  # torch.utils.checkpoint's node of the graph


def require_finite_weights(weights: Mapping[str, Tensor]) -> None:
    """Demand weights that are in memory and finite.

    Args:
        weights: By parameter name.

    Raises:
        InvalidArgumentError: Naming the first parameter that is not.
    """
    for name, weight in weights.items():
        if is_lazy(weight) or weight.is_meta:
            what = (
                "an uninitialised parameter; call the network"
                if is_lazy(weight)
                else "a tensor on meta; load them"
            )
            raise InvalidArgumentError(f"{name}: expected weights in memory, got {what}")
        if not all_finite(weight):
            count = int((~weight.detach().isfinite()).sum())
            raise InvalidArgumentError(
                f"{name}: expected finite weights, got nan or infinity in {count} of {weight.numel()}; "
                "look where training diverged"
            )


def require_finite_batch(batch: Batch, place: str, argument: str = "loader") -> None:
    """Demand inputs and targets without nan or infinity, but for masks given as numbers.

    Args:
        batch: The batch.
        place: Which batch, for the message.
        argument: What the user calls the batches, for the message.

    Raises:
        InvalidArgumentError: If there is one.
    """
    for kind, nest in (("inputs", batch.example), ("targets", batch.targets)):
        for leaf in pytree.tree_leaves(nest):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and bool(torch.isnan(leaf).any()):
                raise InvalidArgumentError(
                    f"{argument}: expected finite {kind}, got nan in {place}; clean the data"
                )


def require_finite_outputs(outputs: Tensor, capture: Capture, place: str) -> None:
    """Demand finite outputs, or name the layer where they first were not.

    Args:
        outputs: Outputs of the network.
        capture: The uses of its parameters that led to them.
        place: Which batch, for the message.

    Raises:
        InvalidArgumentError: If there is nan or infinity.
    """
    if all_finite(outputs):
        return
    names = [use.weight for use in capture.matrices]
    bad = [use.weight for use in capture.matrices if not all_finite(use.inputs)]
    where = f"the inputs of {bad[0]}" if bad else f"the outputs of {names[-1] if names else 'the network'}"
    raise InvalidArgumentError(
        f"model: expected finite outputs, got nan or infinity in {place}; it is in {where} first: "
        "look at the weights before it, and at the scale of the data"
    )


def require_visible_activations(outputs: Tensor) -> None:
    """Demand that the graph has all activations: what reentrant checkpointing hides would count as unused.

    Args:
        outputs: Of the network, with their graph.

    Raises:
        InvalidArgumentError: If some are hidden.
    """
    waiting, seen = [outputs.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == REENTRANT:
            raise InvalidArgumentError(
                "model: expected gradient checkpointing with use_reentrant=False, got the reentrant one, "
                "which hides activations from the graph; choose the other, or switch checkpointing off"
            )
        seen.add(node)
        waiting.extend(following for following, _ in node.next_functions)


def studied_parameters(
    model: nn.Module, include: Sequence[str] | None, exclude: Sequence[str] | None
) -> dict[str, nn.Parameter]:
    """Return the parameters to study, in the model's order.

    Args:
        model: The network.
        include: As for `estimate`.
        exclude: As for `estimate`.

    Raises:
        InvalidArgumentError: If none is chosen, or one that is included is frozen, or one is in shards.
    """
    parameters = dict(model.named_parameters())
    names = matching(parameters, include, exclude)
    frozen = [name for name in names if not parameters[name].requires_grad]
    if include is not None and frozen:
        raise InvalidArgumentError(
            f"include: expected parameters that take a gradient, got the frozen {frozen[0]}; "
            "call requires_grad_() on it"
        )
    require_whole({name: parameters[name] for name in names})
    found = {
        name: parameters[name]
        for name in names
        if parameters[name].requires_grad and parameters[name].is_floating_point()
    }
    if not found:
        raise InvalidArgumentError(
            "include, exclude: expected at least one parameter that takes a gradient, "
            f"got include={include}, exclude={exclude}"
        )
    return found
