"""One batch after another through a network, with the curvature of its layers summed."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.curvature.batches import Batch, answers
from secateur.curvature.capture import Capture
from secateur.curvature.plan import Plan
from secateur.curvature.sums import MatrixSums, add_lookup_squares
from secateur.curvature.uses import LookupUse, MatrixUse, ProbeUse, Use
from secateur.errors import InvalidArgumentError

__all__ = ["Gatherer"]


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

    def copied(self) -> "Gatherer":
        """Return the same sums, apart from these."""
        new = copy.copy(self)
        new.matrices, new.diagonal = copy.deepcopy((self.matrices, self.diagonal))
        return new

    def forward(self, batch: Batch, place: str = "a batch") -> tuple[Tensor, Capture]:
        """Return the outputs for a batch, and the uses of the parameters that lead to them.

        Args:
            batch: The batch.
            place: Which batch, for messages.
        """
        capture = Capture(
            self._parameters,
            batch.size,
            biases=dict(self._plan.biases),
            layouts=dict(self._plan.layouts),
            positions_first=set(self._plan.positions_first),
        )
        with torch.enable_grad(), capture:
            outputs = answers(self._model, batch, place)
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
        edges: list[Any] = [use.probe if isinstance(use, ProbeUse) else use.edge for use in uses]
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
