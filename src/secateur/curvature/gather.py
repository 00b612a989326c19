"""One batch after another through a network, with the curvature of its layers summed.

The first batch decides how each parameter is treated: which bias is the last column of which weight, what is
stored transposed, and what must be left to the slow way, one datum at a time. For one datum the gradients put
together from inputs and output gradients are compared with those of autograd: where they differ, because a
network mixes data or positions in a layout that cannot be known, the slow way is taken too.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.curvature.batches import Batch, tensor_outputs
from secateur.curvature.capture import Capture
from secateur.curvature.sums import MatrixLayout, MatrixSums, add_lookup_squares
from secateur.curvature.uses import LookupUse, MatrixUse, ProbeUse
from secateur.errors import InvalidArgumentError
from secateur.modules.inputs import call

__all__ = ["Gatherer", "Plan", "make_plan"]

Use = MatrixUse | LookupUse | ProbeUse


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
            outputs = tensor_outputs(call(model, batch.example))
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
    edges = [use.probe if isinstance(use, ProbeUse) else use.edge for use in uses]
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
            pieces = use.left(gradient, part)[0].transpose(0, 1).mT @ use.right(gradient, part)[0].transpose(
                0, 1
            )
            matrix = pieces.flatten(0, 1)
            weight, bias = parameters[use.weight], capture.biases.get(use.weight)
            if bias is not None and use.column is not None:
                put(bias, matrix[:, -1])
                matrix = matrix[:, :-1]
            put(use.weight, matrix.mT if capture.layouts[use.weight] else matrix.reshape(weight.shape))
    wrong = set()
    for name, gradient in zip(names, found[len(edges) :], strict=True):
        guess = rebuilt.get(name)
        if gradient is None and guess is None:
            continue
        expected = torch.zeros_like(parameters[name]) if gradient is None else gradient
        got = torch.zeros_like(expected) if guess is None else guess.to(expected.dtype)
        size = max(expected.norm().item(), got.norm().item())
        if (expected - got).norm().item() > 50 * torch.finfo(expected.dtype).eps ** 0.5 * size:
            wrong.add(name)
    return wrong


class Gatherer:
    """Running sums over data.

    Args:
        model: The network, in evaluation mode while batches are added.
        parameters: The parameters that are asked for.
        plan: How they are treated.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter], plan: Plan) -> None:
        self._model = model
        self._parameters = parameters
        self._plan = plan
        self.matrices = {
            name: MatrixSums(layout, _sum_dtype(parameters[name]), parameters[name].device)
            for name, layout in plan.matrices.items()
        }
        self.diagonal = {
            name: torch.zeros_like(parameters[name], dtype=_sum_dtype(parameters[name]), requires_grad=False)
            for name in plan.diagonal
        }

    def forward(self, batch: Batch) -> tuple[Tensor, Capture]:
        """Return the outputs for a batch, and the uses of the parameters that lead to them.

        Args:
            batch: The batch.
        """
        capture = Capture(
            self._parameters,
            batch.size,
            biases=dict(self._plan.biases),
            layouts=dict(self._plan.layouts),
            positions_first=set(self._plan.positions_first),
        )
        with torch.enable_grad(), capture:
            outputs = tensor_outputs(call(self._model, batch.example))
        return outputs, capture

    def add(self, batch: Batch, outputs: Tensor, capture: Capture, directions: Sequence[Tensor]) -> None:
        """Add the squares of the gradients along each direction of the outputs.

        Args:
            batch: The batch.
            outputs: What `forward` returned.
            capture: What `forward` returned.
            directions: Tensors of the outputs' shape.
        """
        plan = self._plan
        slow = sorted(plan.slow | capture.others)
        if changed := [name for name in slow if name not in self.diagonal]:
            raise InvalidArgumentError(
                f"{changed[0]}: expected the same use in every batch, got another one than in the first; "
                "exclude it, or give batches of equal size"
            )
        uses: list[Use] = [
            *[use for use in capture.matrices if use.weight in plan.matrices],
            *[use for use in capture.lookups if use.weight not in slow],
            *[use for use in capture.probes if use.name not in slow and use.name in self.diagonal],
        ]
        edges = [use.probe if isinstance(use, ProbeUse) else use.edge for use in uses]
        found: list[dict[int, Tensor]] = []
        for number, direction in enumerate(directions):
            if not edges:
                break
            last = number == len(directions) - 1 and not slow
            gradients = torch.autograd.grad(
                outputs, edges, direction, retain_graph=not last, allow_unused=True
            )
            found.append({
                id(use): each.detach() for use, each in zip(uses, gradients, strict=True) if each is not None
            })
        reached = [use for use in uses if found and id(use) in found[0]]
        with torch.no_grad():
            self._add_matrices(reached, found, batch)
            self._add_diagonals(reached, found)
        if slow:
            self._add_slowly(slow, outputs, directions, batch.size)

    def _add_matrices(self, uses: list[Use], found: list[dict[int, Tensor]], batch: Batch) -> None:
        by_weight: dict[str, tuple[list[MatrixUse], list[LookupUse]]] = {}
        for use in uses:
            if not isinstance(use, ProbeUse) and use.weight in self.matrices:
                own = by_weight.setdefault(use.weight, ([], []))
                if isinstance(use, LookupUse):
                    own[1].append(use)
                else:
                    own[0].append(use)
        for name, (matrix_uses, lookups) in by_weight.items():
            self.matrices[name].add(matrix_uses, lookups, found, batch.attended)

    def _add_diagonals(self, uses: list[Use], found: list[dict[int, Tensor]]) -> None:
        lookups: dict[str, list[LookupUse]] = {}
        probes: dict[str, list[ProbeUse]] = {}
        for use in uses:
            if isinstance(use, ProbeUse):
                probes.setdefault(use.name, []).append(use)
            elif isinstance(use, LookupUse) and use.weight in self.diagonal:
                lookups.setdefault(use.weight, []).append(use)
        for each in found:
            for name in lookups.keys() | probes.keys():
                total = self.diagonal[name]
                if name not in probes:
                    own = lookups[name]
                    add_lookup_squares(total, own, [each[id(use)] for use in own])
                    continue
                rows = sum(use.rows(each[id(use)]).to(total.dtype) for use in probes[name])
                assert isinstance(rows, Tensor)
                for use in lookups.get(name, ()):
                    whole = rows.view(len(rows), *total.shape)
                    for datum, index in enumerate(use.index):
                        whole[datum].index_add_(0, index, use.rows(each[id(use)])[datum].to(total.dtype))
                total += rows.square().sum(0).view(total.shape)

    def _add_slowly(
        self, names: Sequence[str], outputs: Tensor, directions: Sequence[Tensor], batch_size: int
    ) -> None:
        """Add the squares of one datum after another, by autograd alone."""
        targets = [self._parameters[name] for name in names]
        rows = max(len(outputs) // batch_size, 1)
        for direction in directions:
            for start in range(0, len(outputs), rows):
                one = torch.zeros_like(direction)
                one[start : start + rows] = direction[start : start + rows]
                gradients = torch.autograd.grad(outputs, targets, one, retain_graph=True, allow_unused=True)
                for name, gradient in zip(names, gradients, strict=True):
                    if gradient is not None:
                        self.diagonal[name] += gradient.detach().to(self.diagonal[name].dtype).square()


def _sum_dtype(parameter: Tensor) -> torch.dtype:
    return torch.float32 if parameter.dtype in (torch.float16, torch.bfloat16) else parameter.dtype
