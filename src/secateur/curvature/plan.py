"""How every parameter of a network is treated in a curvature pass, decided by its first batch.

Decided is which bias is the last column of which weight, what is stored transposed, and what must be left to
the slow way, one datum at a time. For one datum the gradients put together from inputs and output gradients
are compared with those of autograd: where they differ, because a network mixes data or positions in a layout
that cannot be known, the other layout is tried, and then the slow way is taken.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.curvature.batches import Batch, answers
from secateur.curvature.capture import Capture
from secateur.curvature.checks import require_visible_activations
from secateur.curvature.sums import MatrixLayout
from secateur.curvature.uses import LookupUse, ProbeUse, Use

__all__ = ["Plan", "make_plan"]


class Plan:
    """How every parameter is treated.

    Attributes:
        matrices: Layout of each weight matrix, by the weight's name.
        biases: The bias that is a weight's last column, by the weight's name.
        layouts: Whether each weight is stored (inputs, outputs).
        positions_first: Parameters that are used with positions in the first axis, data in the second.
        diagonal: Names of the parameters in no matrix.
        slow: Those of them whose gradient is taken one datum at a time.
    """

    def __init__(
        self,
        matrices: dict[str, MatrixLayout],
        biases: dict[str, str],
        layouts: dict[str, bool],
        positions_first: set[str],
        diagonal: list[str],
        slow: set[str],
    ) -> None:
        self.matrices = matrices
        self.biases = biases
        self.layouts = layouts
        self.positions_first = positions_first
        self.diagonal = diagonal
        self.slow = slow


def make_plan(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batch: Batch,
    *,
    structure: str,
    with_diagonal: bool,
    largest_factor: int,
) -> Plan:
    """Return how every parameter is treated, from one forward pass.

    Args:
        model: In evaluation mode.
        parameters: The parameters that are asked for.
        batch: Any batch of the data.
        structure: "diagonal", "row" or "kronecker".
        with_diagonal: Whether the exact diagonal is gathered beside factors.
        largest_factor: Rows or columns above which no factor is formed.
    """
    capture, misread = _tried(model, parameters, batch, set())
    if misread:
        capture, misread = _tried(model, parameters, batch, capture.positions_first | misread)
    probed = {use.name for use in capture.probes}
    slow = capture.others | misread
    biases = {
        weight: bias
        for weight, bias in capture.biases.items()
        if weight not in slow and bias not in slow and bias not in probed
    }
    matrices = {}
    for use in capture.matrices:
        name = use.weight
        if name in slow or name in matrices:
            continue
        if name in probed:  # used elementwise as well
            slow.add(name)
            biases.pop(name, None)
            continue
        shape = parameters[name].shape
        transposed = capture.layouts[name]
        rows = shape[1] if transposed else shape[0]
        columns = parameters[name].numel() // max(rows, 1) + (name in biases)
        with_inputs = structure != "diagonal" and columns <= largest_factor
        matrices[name] = MatrixLayout(
            weight=name,
            bias=biases.get(name),
            transposed=transposed,
            rows=rows,
            columns=columns,
            with_inputs=with_inputs,
            with_outputs=structure == "kronecker" and with_inputs and rows <= largest_factor,
            with_squares=with_diagonal or not with_inputs,
        )
    inside = {name for layout in matrices.values() for name in layout.names}
    biases = {weight: bias for weight, bias in biases.items() if weight in matrices}
    diagonal = [name for name in parameters if name not in inside]
    return Plan(matrices, biases, dict(capture.layouts), capture.positions_first, diagonal, slow)


def _tried(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], batch: Batch, positions_first: set[str]
) -> tuple[Capture, set[str]]:
    """Return the uses in one forward pass, and the parameters whose uses do not make the right gradient."""
    capture = Capture(parameters, batch.size, positions_first=positions_first)
    with torch.enable_grad():
        with capture:
            outputs = answers(model, batch)
        require_visible_activations(outputs)
        return capture, _misread(capture, parameters, outputs, batch)


def _misread(
    capture: Capture, parameters: Mapping[str, nn.Parameter], outputs: Tensor, batch: Batch
) -> set[str]:
    """Return the parameters whose gradient of the last datum is not what the uses make of it."""
    if not outputs.requires_grad or len(outputs) != batch.size:
        return set()
    uses: list[Use] = [*capture.matrices, *capture.lookups, *capture.probes]
    direction = torch.zeros_like(outputs)
    datum = batch.size - 1
    values = torch.linspace(-1, 1, max(outputs[datum].numel(), 2), device=outputs.device)
    direction[datum] = values[: outputs[datum].numel()].view(outputs[datum].shape).to(outputs.dtype)
    names = [name for name in parameters if name not in capture.others]
    if not names:
        return set()
    targets = [parameters[name] for name in names]
    edges: list[Any] = [use.probe if isinstance(use, ProbeUse) else use.edge for use in uses]
    found = torch.autograd.grad(outputs, [*edges, *targets], direction, allow_unused=True)
    part = slice(datum, batch.size)
    rebuilt: dict[str, Tensor] = {}

    def put(name: str, value: Tensor) -> None:
        rebuilt[name] = rebuilt[name] + value if name in rebuilt else value

    for use, gradient in zip(uses, found, strict=False):
        if gradient is None:
            continue
        if isinstance(use, ProbeUse):
            put(use.name, use.rows(gradient)[datum].view(parameters[use.name].shape))
        elif isinstance(use, LookupUse):
            weight = parameters[use.weight]
            rows = use.rows(gradient)[datum].to(weight.dtype)
            put(use.weight, torch.zeros_like(weight).index_add_(0, use.index[datum], rows))
        else:
            weight, bias = parameters[use.weight], capture.biases.get(use.weight)
            # under autocast, gradients and inputs may come in half precision
            left, right = (
                each[0].transpose(0, 1).to(weight.dtype)
                for each in (use.left(gradient, part), use.right(gradient, part))
            )
            pieces = left.mT @ right
            order = use.in_order()
            matrix = pieces.flatten(0, 1) if order is None else pieces.flatten(0, 1)[:, order]
            if bias is not None and use.column is not None:
                put(bias, matrix[:, -1])
                matrix = matrix[:, :-1]
            put(use.weight, matrix.mT if capture.layouts[use.weight] else matrix.reshape(weight.shape))
    wrong = set()
    # A gradient that cancels, as that of the biases of attention's keys, is rounding noise of the others'.
    noise = max((each.norm().item() for each in found[len(edges) :] if each is not None), default=0.0)
    for name, gradient in zip(names, found[len(edges) :], strict=True):
        guess = rebuilt.get(name)
        if gradient is None and guess is None:
            continue
        expected = torch.zeros_like(parameters[name]) if gradient is None else gradient
        got = torch.zeros_like(expected) if guess is None else guess.to(expected.dtype)
        size = max(expected.norm().item(), got.norm().item())
        eps = torch.finfo(expected.dtype).eps
        if (expected - got).norm().item() > 50 * eps**0.5 * size + 100 * eps * noise:
            wrong.add(name)
    return wrong
