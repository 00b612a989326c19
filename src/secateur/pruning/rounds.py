"""One round of a removal from a trained network: which weights are in, which go next, and what stays then."""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape

import torch
from torch import Tensor, nn

from secateur.curvature import Curvature, LayerCurvature
from secateur.curvature.batches import Batch
from secateur.curvature.plan import make_plan
from secateur.errors import InvalidArgumentError
from secateur.modules import chosen, held_masks, layer_of, matching, prunable_exclude
from secateur.modules.matrix import LayerMatrix
from secateur.pruning.joint_layer import JointLayer
from secateur.pruning.patterns import Pattern
from secateur.reduction import select_largest

__all__ = ["TrainedWeights", "applied", "cheapest", "joint_layers", "removable_weights"]


@dataclass(frozen=True)
class TrainedWeights:
    """The weights of a network that may go.

    Attributes:
        keep: True where an entry is in, by parameter name.
        biases: The same for the biases that move with them.
    """

    keep: dict[str, Tensor]
    biases: dict[str, Tensor]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the weights that may go."""
        return tuple(self.keep)

    @property
    def moving(self) -> tuple[str, ...]:
        """Names of the biases that move with them."""
        return tuple(self.biases)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Name patterns of the parameters whose curvature is asked for."""
        return tuple(escape(name) for name in (*self.names, *self.moving))

    @property
    def num_weights(self) -> int:
        """Entries that may go, those that are out included."""
        return sum(mask.numel() for mask in self.keep.values())

    @property
    def num_out(self) -> int:
        """Entries that are out."""
        return sum(mask.numel() - int(mask.count_nonzero()) for mask in self.keep.values())

    def present(self, matrix: LayerMatrix) -> Tensor:
        """Return where entries of a layer are in; biases and weights that may not go always are.

        Args:
            matrix: Layout of the layer.
        """
        known = self.keep | self.biases
        device = next(iter(self.keep.values())).device
        whole = {
            name: known[name] if name in known else torch.ones(shape, dtype=torch.bool, device=device)
            for name, shape in matrix.shapes.items()
        }
        return matrix.pack(whole)

    def of_units(self, names: Container[str]) -> "TrainedWeights":
        """Return only the weights of whole units, with their biases among what may go.

        Args:
            names: Parameters of the units.
        """
        known = self.keep | self.biases
        going = tuple(name for name in (*self.names, *self.moving) if name in names)
        layers = {layer_of(name) for name in going}
        moving = tuple(name for name in self.moving if name not in names and layer_of(name) in layers)
        return TrainedWeights({name: known[name] for name in going}, {name: known[name] for name in moving})

    def linear_maps(self, model: nn.Module, batch: Batch) -> "TrainedWeights":
        """Return only the weights that the network uses as linear maps or convolutions.

        Args:
            model: The network, in evaluation mode.
            batch: Any batch of the data.

        Raises:
            InvalidArgumentError: If there are none.
        """
        parameters = {name: each for name, each in model.named_parameters() if name in self.keep}
        plan = make_plan(model, parameters, batch, structure="row", with_diagonal=False, largest_factor=0)
        return self.among(plan.matrices)

    def among(self, names: Container[str]) -> "TrainedWeights":
        """Return only weights of these names, with the biases of their layers.

        Args:
            names: Of weights that the network uses as linear maps or convolutions.

        Raises:
            InvalidArgumentError: If there are none.
        """
        keep = {name: mask for name, mask in self.keep.items() if name in names}
        if not keep:
            self.require(names)
        layers = {layer_of(name) for name in keep}
        return TrainedWeights(
            keep, {name: mask for name, mask in self.biases.items() if layer_of(name) in layers}
        )

    def require(self, found: Container[str]) -> None:
        """Refuse weights that the network does not use as linear maps or convolutions.

        Args:
            found: Names of those that it does.

        Raises:
            InvalidArgumentError: Naming the first other one.
        """
        for name in self.names:
            if name not in found:
                raise InvalidArgumentError(
                    f"{name}: expected the weight of a linear map or convolution, got one that the network "
                    "uses otherwise, or not at all; exclude it"
                )


def removable_weights(
    model: nn.Module, include: Sequence[str] | None, exclude: Sequence[str] | None, *, output: bool = False
) -> TrainedWeights:
    """Return the weights of a trained network that may go: matrices, but no embeddings and no output layer.

    Frozen ones stay too.

    Args:
        model: The network, held or not.
        include: Name patterns of weights that may go, whatever they are.
        exclude: Name patterns of weights that stay, and of biases that do not move.
        output: Whether weights of the output layer may go too, as where units that it reads go.

    Raises:
        InvalidArgumentError: If a pattern matches nothing, nothing may go, or a frozen weight is included.
    """
    parameters = dict(model.named_parameters())
    matching(parameters, include, exclude)  # the caller's own patterns, before ours join them
    stay = exclude if output else prunable_exclude(model, parameters, include, exclude)
    embeddings = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)
    }
    matrices = [
        name
        for name in matching(parameters, include, stay)
        if parameters[name].dim() > 1 and (include is not None or name not in embeddings)
    ]
    frozen = [name for name in matrices if not parameters[name].requires_grad]
    if frozen and (include is not None or frozen == matrices):
        raise InvalidArgumentError(
            f"{frozen[0]}: expected a weight that takes a gradient, got a frozen one; call requires_grad_() "
            "on it or exclude it"
        )
    names = tuple(name for name in matrices if name not in frozen)
    if not names:
        raise InvalidArgumentError(
            f"include, exclude: expected at least one weight matrix that may go, got include={include}, "
            f"exclude={exclude}"
        )
    layers = {layer_of(name) for name in names}
    moving = tuple(
        name
        for name, parameter in parameters.items()
        if parameter.dim() == 1 and layer_of(name) in layers and parameter.requires_grad
        if chosen(name, None, exclude)
    )
    held = held_masks(model)
    keep = {
        name: held[name].clone() if name in held else torch.ones_like(parameters[name], dtype=torch.bool)
        for name in (*names, *moving)
    }
    return TrainedWeights({name: keep[name] for name in names}, {name: keep[name] for name in moving})


def joint_layers(
    curvature: Curvature, parameters: Mapping[str, Tensor], weights: TrainedWeights
) -> Iterator[tuple[str, LayerCurvature, JointLayer]]:
    """Give each layer that has weights that may go: its name, its curvature, its joint posterior.

    Args:
        curvature: Taken at the present weights.
        parameters: The network's, by name.
        weights: Which may go.
    """
    for name, own in curvature.layers.items():
        if not set(own.matrix.shapes) & set(weights.names):
            continue
        matrix = own.matrix.pack({each: parameters[each].detach() for each in own.matrix.shapes})
        matrix = matrix.to(own.row_sums.dtype)  # half precision is too coarse for what follows
        yield name, own, JointLayer.of(name, own, curvature.num_data, matrix, weights.present(own.matrix))


def cheapest(
    costs: Mapping[str, Tensor],
    weights: TrainedWeights,
    num_out: int,
    *,
    pattern: Pattern | None = None,
    matrices: Mapping[str, LayerMatrix] | None = None,
) -> dict[str, Tensor]:
    """Return new masks with the cheapest entries of all layers out, so many in all.

    Args:
        costs: Nats that each entry's removal costs, by name; what is out already is not read.
        weights: Which are in.
        num_out: Entries to be out afterwards.
        pattern: Allow only entries that the pattern lets go.
        matrices: Layout of the layer of each name, for the pattern.
    """
    allowed = dict(weights.keep)
    if pattern is not None:
        assert matrices is not None
        for name in weights.names:
            matrix = matrices[name]
            shape = matrix.shapes[name]
            flat = LayerMatrix({name: shape}, matrix.rows, matrix.transposed)
            ordered = torch.where(weights.keep[name], costs[name], -1.0)
            may_go = pattern.removable(flat.pack({name: ordered}), shape, matrix)
            allowed[name] = flat.unpack(may_go)[name] & weights.keep[name]
    count = num_out - weights.num_out
    available = sum(int(mask.count_nonzero()) for mask in allowed.values())
    order = list(weights.names)
    gone = select_largest(
        [-costs[name] for name in order], min(count, available), among=[allowed[name] for name in order]
    )
    return {name: weights.keep[name] & ~out for name, out in zip(order, gone, strict=True)}


@contextmanager
def applied(model: nn.Module, new: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a network new values of some parameters and buffers; take them all back if the body fails.

    Args:
        model: Network to change in place.
        new: Values by name.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    missing = [name for name in new if name not in parameters]
    if missing:
        raise InvalidArgumentError(f"model: expected a parameter {missing[0]}, got none of that name")
    before = {name: parameters[name].detach().clone() for name in new}
    try:
        with torch.no_grad():
            for name, value in new.items():
                parameters[name].copy_(value)
        yield
    except BaseException:  # an interruption too: the network is as before or after, never between
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)
        raise
