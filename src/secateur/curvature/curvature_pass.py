"""A curvature pass that has begun: batches are added one by one.

What is summed, and the two ways of choosing directions of the outputs: `secateur.curvature.estimate`.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.curvature.batches import Batch, answers, first_data, label_shift, labelled, read_batch
from secateur.curvature.checks import (
    require_finite_batch,
    require_finite_outputs,
    require_finite_weights,
    studied_parameters,
)
from secateur.curvature.gather import Gatherer
from secateur.curvature.plan import Plan, make_plan
from secateur.curvature.ranks import sum_over_ranks
from secateur.curvature.sums import MatrixSums, mirrored
from secateur.curvature.value import Curvature, LayerCurvature
from secateur.distributed import alone, num_ranks, sum_in_place
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Likelihood, resolve
from secateur.modules.matrix import LayerMatrix
from secateur.modules.modes import evaluation_mode
from secateur.modules.names import layer_of, unwrapped

__all__ = ["CurvaturePass"]

STRUCTURES = ("diagonal", "row", "kronecker")
OUTPUTS = ("sampled", "exact")


class CurvaturePass:
    """A pass over data that has begun: add batches, then ask for the result.

    Among ranks each adds its own batches; parts of one batch have a `Share` in it, so that the targets are
    drawn as one process draws them. The result is that of all ranks' data.

    Args:
        model: As for `estimate`.
        likelihood: As for `estimate`.
        structure: As for `estimate`.
        outputs: As for `estimate`.
        diagonal: As for `estimate`.
        include: As for `estimate`.
        exclude: As for `estimate`.
        largest_factor: As for `estimate`.
        seed: As for `estimate`.
        generator: As for `estimate`.

    Attributes:
        likelihood: As a value.
        parameters: Those that are studied, by name.
        shift: By how many tokens the labels lag behind the outputs; known after the first look or batch.

    Raises:
        InvalidArgumentError: As for `estimate`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        likelihood: str | Likelihood = "categorical",
        structure: str = "kronecker",
        outputs: str = "sampled",
        diagonal: bool = False,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        largest_factor: int = 8192,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        for argument, value, valid in (("structure", structure, STRUCTURES), ("outputs", outputs, OUTPUTS)):
            if value not in valid:
                raise InvalidArgumentError(f"{argument}: expected one of {', '.join(valid)}, got {value!r}")
        self.likelihood = resolve(likelihood)
        model = unwrapped(model)
        self.parameters = studied_parameters(model, include, exclude)
        require_finite_weights(dict(model.named_parameters()))
        self._model = model
        self._structure = structure
        self._outputs = outputs
        self._diagonal = diagonal
        self._largest = largest_factor
        self._device = next(iter(self.parameters.values())).device
        self._generator = generator or torch.Generator(self._device).manual_seed(seed)
        self._plan: Plan | None = None
        self._outputs_like: Tensor | None = None  # outputs of no data, to draw with the other ranks
        self.shift = 0
        self._begin()

    def _begin(self) -> None:
        self._gatherer: Gatherer | None = None
        self._num_batches = 0
        self._num_seen = 0
        self._loss: Tensor | None = torch.zeros((), dtype=torch.float64)

    def restarted(self, seed: int | None = None) -> "CurvaturePass":
        """Return a pass over the same network that begins anew, without a new look at how it is built.

        Args:
            seed: Seed of the sampled targets; None goes on with this pass's source.

        Raises:
            InvalidArgumentError: If weights are not finite.
        """
        require_finite_weights(dict(self._model.named_parameters()))
        new = copy.copy(self)
        if seed is not None:
            new._generator = torch.Generator(self._device).manual_seed(seed)
        new._begin()
        return new

    def add(self, batch: Any) -> None:
        """Add one batch of a loader.

        Args:
            batch: As the loader of `estimate` gives it, or one that was read.

        Raises:
            InvalidArgumentError: If the batch is not finite, or outputs do not fit the likelihood.
        """
        self._num_batches += 1
        read = batch if isinstance(batch, Batch) else read_batch(batch, self._device, self._model)
        place = f"batch {self._num_batches}"
        require_finite_batch(read, place)
        with evaluation_mode(self._model):
            if self._gatherer is None:
                self._gatherer = Gatherer(self._model, self.parameters, self._look(read))
            if read.share is not None and not read.size:
                if self._outputs == "sampled" and self._outputs_like is not None:
                    self.likelihood.sample(read.share.spread(self._outputs_like), self._generator)
                return
            outputs, capture = self._gatherer.forward(read, place)
            require_finite_outputs(outputs.detach(), capture, place)
            self.likelihood.check(outputs.detach())
            if not outputs.requires_grad:
                raise InvalidArgumentError(
                    "model: expected outputs that depend on the chosen parameters, got none that do; "
                    "call the network without torch.no_grad"
                )
            directions, count, loss = self._directions(outputs.detach(), read)
            if count or (read.share is not None and directions):
                self._gatherer.add(read, outputs, capture, directions)
        self._num_seen += count
        if self._loss is not None:
            self._loss = None if loss is None else self._loss + loss.double().cpu()
        if self._loss is not None and not self._loss.isfinite():
            raise InvalidArgumentError(f"loader: expected a finite loss, got {self._loss.item()} in {place}")

    def look(self, batch: Batch) -> None:
        """Find out how the network uses its parameters, once, before any batch is added.

        Args:
            batch: Any batch of the data.
        """
        with evaluation_mode(self._model):
            self._look(batch)

    def _look(self, batch: Batch) -> Plan:
        if self._plan is None:
            if num_ranks() > 1:
                with torch.no_grad():
                    self._outputs_like = answers(self._model, first_data(replace(batch, share=None), 1))[:0]
            self.shift = 0 if batch.targets is None else label_shift(self._model, batch, self.likelihood)
            self._plan = make_plan(
                self._model,
                self.parameters,
                batch,
                structure=self._structure,
                with_diagonal=self._diagonal,
                largest_factor=self._largest,
            )
        return self._plan

    def diagonals(self) -> dict[str, Tensor]:
        """Return the mean diagonals of all sums so far, to see whether they have settled."""
        assert self._gatherer is not None
        found = {name: value.clone() for name, value in self._gatherer.diagonal.items()}
        for name, sums in self._gatherer.matrices.items():
            found[f"{name} rows"] = sums.row_sums.clone()
            if sums.inputs is not None:
                found[f"{name} columns"] = sums.inputs.diagonal().clone()
        seen = torch.tensor(float(self._num_seen), dtype=torch.float64, device=self._device)
        sum_in_place([seen, *found.values()])
        return {name: value / max(float(seen), 1) for name, value in found.items()}

    def result(self, num_data: int | None = None, *, ends: bool = False) -> Curvature:
        """Return the curvature of all batches so far, those of other ranks too.

        Args:
            num_data: As for `estimate`.
            ends: Give the sums away as they are read, so that they are never in memory twice. The pass then
                takes no more batches.

        Raises:
            InvalidArgumentError: If there were no data.
        """
        if num_ranks() > 1:
            summed = self._over_ranks(ends)
            with alone():
                return summed.result(num_data, ends=True)
        if self._gatherer is None:
            raise InvalidArgumentError("loader: expected at least one batch, got none")
        if not self._num_seen:
            raise InvalidArgumentError("loader: expected at least one datum with a label, got none")
        if num_data is not None and num_data < 1:
            raise InvalidArgumentError(f"num_data: expected at least 1, got {num_data}")
        gatherer = self._gatherer
        matrices = gatherer.matrices if ends else dict(gatherer.matrices)
        if ends:
            self._gatherer = None
        layers = {}
        modules = [layer_of(name) for name in matrices]
        for name in list(matrices):
            module = layer_of(name)
            single = modules.count(module) == 1
            layers[module if single else name] = self._layer(matrices.pop(name))
        loss = None if self._loss is None else float(self._loss) / self._num_seen
        return Curvature(
            layers=layers,
            diagonal={name: value / self._num_seen for name, value in gatherer.diagonal.items()},
            num_data=self._num_seen if num_data is None else num_data,
            num_seen=self._num_seen,
            loss=loss,
        )

    def _over_ranks(self, ends: bool) -> "CurvaturePass":
        """Return this pass, or a copy if it goes on, with the sums of all ranks in place of its own."""
        found = self if ends else copy.copy(self)
        if found._gatherer is None:
            raise InvalidArgumentError("loader: expected at least one batch on every rank, got none on this")
        if not ends:
            found._gatherer = found._gatherer.copied()
        found._num_seen, found._loss = sum_over_ranks(found._gatherer, found._num_seen, found._loss)
        return found

    def _layer(self, sums: MatrixSums) -> LayerCurvature:
        layout, seen = sums.layout, self._num_seen
        shapes = [tuple(self.parameters[name].shape) for name in layout.names]
        return LayerCurvature(
            matrix=LayerMatrix.of(layout.names, shapes, transposed=layout.transposed),
            A=None if sums.inputs is None else mirrored(sums.inputs) / seen,
            G=None if sums.outputs is None else mirrored(sums.outputs) / max(sums.num_positions, 1),
            row_sums=sums.row_sums / seen,
            diagonal=None if sums.squares is None else sums.squares / seen,
            num_positions=sums.num_positions,
        )

    def _directions(self, outputs: Tensor, batch: Batch) -> tuple[list[Tensor], int, Tensor | None]:
        """Return directions of the outputs, the number of data, and the summed loss of the targets."""
        found = labelled(outputs, batch, self.likelihood, self.shift)
        counted, targets, attended, tokens = found.outputs, found.targets, found.attended, found.tokens
        ignore = getattr(self.likelihood, "ignore_label", None)
        loss = None
        if targets is not None:
            if self.likelihood.num_data(targets):
                self.likelihood.check(counted, targets)
            elif batch.share is None:  # other ranks may have labels, and draw beside these data
                return [], 0, None if self._loss is None else torch.zeros(())
            losses = self.likelihood.loss(counted, targets)
            loss = losses.sum()
        if targets is not None and not (tokens and ignore is None):
            count = self.likelihood.num_data(targets)
        elif tokens and attended is not None:
            count = int(attended.sum())
        else:
            count = math.prod(counted.shape[:-1]) if counted.dim() > 1 else len(counted)
        if self._outputs == "exact":
            if outputs.dim() > 2:
                got = ", ".join(["batch", *map(str, outputs.shape[1:])])
                raise InvalidArgumentError(
                    f"model: expected outputs of shape (batch, outputs), got ({got}); "
                    'use outputs="sampled" for outputs with positions'
                )
            root = self.likelihood.root(outputs)
            if targets is not None and ignore is not None:
                root = root * (targets != ignore).view(-1, 1, 1)
            return list(root.reshape(*outputs.shape, -1).unbind(-1)), count, loss
        drawn = self._drawn(counted, targets, batch)
        with torch.enable_grad():
            leaf = counted.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.likelihood.loss(leaf, drawn).sum(), leaf)
        if tokens and attended is not None:
            slope = slope * attended.unsqueeze(-1)
        direction = torch.zeros_like(outputs)
        direction[:, : counted.shape[1]] = slope if self.shift else 0
        return [direction if self.shift else slope], count, loss

    def _drawn(self, counted: Tensor, targets: Tensor | None, batch: Batch) -> Tensor:
        """Return targets drawn from the network; of a batch of all ranks, as one process draws them."""
        places: slice | list[int] = slice(None)
        if batch.share is not None and len(counted) == batch.size:
            self._outputs_like = counted[:0]
            places = list(batch.share.places)
            counted = batch.share.spread(counted)
            targets = None if targets is None else batch.share.spread(targets)
        if targets is None:
            return self.likelihood.sample(counted, self._generator)[places]
        return self.likelihood.sample_like(counted, targets, self._generator)[places]
