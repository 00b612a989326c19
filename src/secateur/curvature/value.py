"""The curvature of a network's loss in its weights: Kronecker factors of each layer and exact diagonals.

Shapes: a layer's matrix is (rows, columns): output units, and inputs with the bias as the last column.
Means:  everything is a mean over data; times `num_data` it is the curvature of the whole loss. With inputs a
        (a 1 appended for the bias) and gradients g of the loss of one datum at each of its p positions,

            A = mean sum_p a a^T                  (columns, columns)
            G = mean (1 / positions) sum_p g g^T  (rows, rows)
            row_sums_i = mean sum_j (sum_p g_i a_j)^2

        so that the curvature of a layer's matrix, read row by row, is close to G (x) A. Where positions
        depend on each other, G (x) A has the wrong size (convolutions: 2 to 34 times); `output_factor` is G
        with each row rescaled to the exact row sum of the diagonal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError
from secateur.modules.matrix import LayerMatrix
from secateur.posterior import Posterior

__all__ = ["Curvature", "LayerCurvature"]


@dataclass(frozen=True)
class LayerCurvature:
    """The curvature of one weight matrix.

    Attributes:
        matrix: Which parameters make the matrix, and how.
        A: Second moment of the inputs; None where the layer has too many of them, or it was not asked for.
        G: Second moment of the output gradients; None likewise.
        row_sums: Exact sums over each row of the diagonal.
        diagonal: The exact diagonal, shape (rows, columns); None where it was not asked for.
        num_positions: Positions of all data together, with those of every use of the matrix.
    """

    matrix: LayerMatrix
    A: Tensor | None
    G: Tensor | None
    row_sums: Tensor
    diagonal: Tensor | None
    num_positions: int

    @property
    def row_scale(self) -> Tensor:
        """Mean curvature of each row relative to A: `row_sums / tr A`, the diagonal of `output_factor`."""
        assert self.A is not None, "rows have a scale only where the inputs were gathered"
        trace = self.A.diagonal().sum()
        return torch.where(trace > 0, self.row_sums / trace, torch.zeros_like(self.row_sums))

    @property
    def output_factor(self) -> Tensor:
        """G with each row rescaled so that the diagonal of G (x) A has the exact row sums."""
        assert self.G is not None, "there is an output factor only where gradients were gathered"
        scale, diagonal = self.row_scale, self.G.diagonal()
        ratio = torch.where(diagonal > 0, scale / diagonal, torch.zeros_like(scale)).sqrt()
        factor = self.G * ratio.unsqueeze(1) * ratio
        factor.diagonal().copy_(scale)  # also where only lookups gave the row a gradient
        return factor

    def expected_diagonal(self) -> Tensor:
        """Return the diagonal, shape (rows, columns): the exact one if there is one, else that of G (x) A."""
        if self.diagonal is not None:
            return self.diagonal
        assert self.A is not None
        return torch.outer(self.row_scale, self.A.diagonal())


@dataclass(frozen=True)
class Curvature:
    """The curvature of a network, as means over data.

    Attributes:
        layers: Curvature of each weight matrix. Keys are module names; where a module has several matrices,
            names of the weights.
        diagonal: Exact diagonal of each parameter in no matrix: embeddings, scales, shifts, all others.
        num_data: Size of the whole data: what the means are multiplied by.
        num_seen: Data that the means were taken over.
        loss: Mean loss of the observed targets, in nats per datum; None without targets.
    """

    layers: dict[str, LayerCurvature]
    diagonal: dict[str, Tensor]
    num_data: int
    num_seen: int
    loss: float | None

    def parameters(self) -> dict[str, str | None]:
        """Return the name of the layer that each parameter belongs to, None for those in `diagonal`."""
        found: dict[str, str | None] = dict.fromkeys(self.diagonal)
        for name, layer in self.layers.items():
            found |= dict.fromkeys(layer.matrix.shapes, name)
        return found

    def diagonals(self) -> dict[str, Tensor]:
        """Return the mean diagonal of every parameter: exact where it was gathered, else from the factors."""
        found = dict(self.diagonal)
        for layer in self.layers.values():
            found |= layer.matrix.unpack(layer.expected_diagonal())
        return found

    def __add__(self, other: "Curvature") -> "Curvature":
        """Return the curvature of two sets of data together, for one of several processes or passes.

        Raises:
            InvalidArgumentError: If they are not of the same layers.
        """
        seen = self.num_seen + other.num_seen
        merged = self.mixed(other, other.num_seen / seen, by_position=True)
        return replace(merged, num_data=max(self.num_data, other.num_data, seen))

    def mixed(self, other: "Curvature", share: float, *, by_position: bool = False) -> "Curvature":
        """Return a weighted mean of two curvatures; a running average takes a small share of each new one.

        Args:
            other: Of the same layers.
            share: Weight of the other; `1 - share` is that of this one.
            by_position: Weigh G, a mean over positions, by the positions of both instead.

        Raises:
            InvalidArgumentError: If they are not of the same layers.
        """
        if self.parameters() != other.parameters():
            differing = sorted(self.parameters().keys() ^ other.parameters().keys()) or sorted(self.layers)
            raise InvalidArgumentError(
                f"curvature: expected two of the same layers, got a difference at {differing[0]!r}"
            )

        def mean(mine: Tensor | None, theirs: Tensor | None, weight: float = share) -> Tensor | None:
            return None if mine is None or theirs is None else torch.lerp(mine, theirs, weight)

        layers = {}
        for name, mine in self.layers.items():
            theirs = other.layers[name]
            positions = mine.num_positions + theirs.num_positions
            of_outputs = theirs.num_positions / max(positions, 1) if by_position else share
            layers[name] = replace(
                mine,
                A=mean(mine.A, theirs.A),
                G=mean(mine.G, theirs.G, of_outputs),
                row_sums=torch.lerp(mine.row_sums, theirs.row_sums, share),
                diagonal=mean(mine.diagonal, theirs.diagonal),
                num_positions=positions,
            )
        losses = self.loss, other.loss
        return Curvature(
            layers=layers,
            diagonal={
                name: torch.lerp(value, other.diagonal[name], share) for name, value in self.diagonal.items()
            },
            num_data=max(self.num_data, other.num_data),
            num_seen=self.num_seen + other.num_seen,
            loss=None if None in losses else losses[0] + share * (losses[1] - losses[0]),  # type: ignore[operator]
        )

    def to(self, device: torch.device | str) -> "Curvature":
        """Return the curvature with every tensor on a device.

        Args:
            device: Where to.
        """

        def moved(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        layers = {
            name: replace(
                each,
                A=moved(each.A),
                G=moved(each.G),
                row_sums=each.row_sums.to(device),
                diagonal=moved(each.diagonal),
            )
            for name, each in self.layers.items()
        }
        diagonal = {name: value.to(device) for name, value in self.diagonal.items()}
        return replace(self, layers=layers, diagonal=diagonal)

    def only_diagonal(self) -> "Curvature":
        """Return the curvature without factors: the exact diagonal of each layer, where it was gathered."""
        layers = {name: replace(layer, A=None, G=None) for name, layer in self.layers.items()}
        return replace(self, layers=layers)

    def posterior(
        self, model: nn.Module, *, prior_precision: float | Mapping[str, float] | None = None
    ) -> Posterior:
        """Return the Gaussian around a network's weights whose precision is this curvature plus the prior's.

        Layers with A and G get `Kronecker` blocks, those with A alone `Rowwise` ones, all others `Diagonal`
        ones. Entries that the model holds at zero are out.

        Args:
            model: The network, at the weights where the curvature was taken.
            prior_precision: Inverse variance of each weight under the prior: one number, numbers by parameter
                name, or None for the maximum of the evidence, module by module.

        Raises:
            InvalidArgumentError: If the model has not the curvature's parameters, or a prior is missing.
        """
        from secateur.curvature.blocks import laplace_posterior

        return laplace_posterior(self, model, prior_precision=prior_precision)
