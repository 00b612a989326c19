"""The units that a layer reads, one after the other: each costs what it costs once those before it are gone.

    cost of columns Q     1/2 tr( N G W_Q [B_QQ]^-1 W_Q^T ),      B = (A_F)^-1, F the columns that are in
    without them          W <- W - W_Q [B_QQ]^-1 B_Q,     B <- B - B_Q^T [B_QQ]^-1 B_Q

under the curvature N G (x) A of the layer. What is left has moved, so the costs on the way add up to that of
all units together. By the costs of the beginning two units that stand in for each other would both be free.

Sources: optimal brain surgeon's step, Hassibi & Stork 1993, for whole columns.
"""

import torch
from torch import Tensor

from secateur.pruning.joint_layer import DAMPING, JointLayer
from secateur.reduction.kronecker_curvature import curvature_root

__all__ = ["UnitPath"]


class UnitPath:
    """Units that the columns of one layer read; those that go are taken out one by one.

    Args:
        unit: Number of the unit that each input of the layer belongs to, -1 for none.
        layer: With a factor of its inputs.

    Attributes:
        units: Numbers of the units that were in at first, in the order of `costs`.
    """

    def __init__(self, unit: Tensor, layer: JointLayer) -> None:
        assert layer.column_curvature is not None
        curvature, weights = layer.column_curvature.double(), layer.weights.double()
        taps = (weights.shape[1] - weights.shape[1] % len(unit)) // len(unit)  # a bias is one column more
        of_column = torch.full((weights.shape[1],), -1)
        of_column[: taps * len(unit)] = unit.repeat_interleave(taps)
        inside = layer.present.any(0)
        of_column = torch.where(inside.cpu(), of_column, -1)
        damped = curvature + DAMPING * curvature.diagonal().mean() * torch.eye(len(curvature)).to(curvature)
        self._inverse = torch.zeros_like(damped)
        kept = inside.nonzero().flatten()
        self._inverse[kept.unsqueeze(1), kept] = torch.linalg.inv(damped[kept][:, kept])
        # rows of R^T W, where R R^T = N G: their squares are what the loss sees of a column
        self._seen = curvature_root(layer.row_curvature.double()).mT @ weights
        units, sizes = of_column[of_column >= 0].unique(return_counts=True)
        by_size = [units[sizes == size] for size in sizes.unique().tolist()]
        self.units = torch.cat([units[:0], *by_size])
        self._columns = [
            torch.stack([(of_column == each).nonzero().flatten() for each in some.tolist()]).to(kept.device)
            for some in by_size
        ]
        every = [columns for some in self._columns for columns in some]
        self._of = dict(zip(self.units.tolist(), enumerate(every), strict=True))  # place and columns
        self._in = torch.ones(len(self.units), dtype=torch.bool)
        self._costs: Tensor | None = None

    def costs(self) -> Tensor:
        """Return what the removal of each unit costs now, in nats; infinite where it is gone."""
        if self._costs is None:
            found = [self._seen.new_zeros(0), *(self._misfit(columns) for columns in self._columns)]
            self._costs = torch.where(self._in, torch.cat(found).cpu(), torch.inf)
        return self._costs

    def _misfit(self, columns: Tensor) -> Tensor:
        """Return the costs of units of one size; any number for those that are gone."""
        seen = self._seen[:, columns].permute(1, 2, 0)  # units, columns, rows
        if columns.shape[1] == 1:
            return 0.5 * seen.square().sum((1, 2)) / self._inverse.diagonal()[columns[:, 0]]
        block = self._inverse[columns.unsqueeze(2), columns.unsqueeze(1)]
        gone = (block.diagonal(dim1=1, dim2=2) == 0).all(1)
        block[gone] = torch.eye(columns.shape[1], dtype=block.dtype, device=block.device)
        return 0.5 * (seen * torch.linalg.solve(block, seen)).sum((1, 2))

    def cheapest(self, sizes: Tensor, most: float) -> tuple[float, int] | None:
        """Return the rate and number of the unit that costs least for what it saves.

        Args:
            sizes: What each unit saves, by its number.
            most: Units that save more are passed over.

        Returns:
            None if none fits, or one alone is in.
        """
        saved = sizes[self.units]
        if int((self._in & (saved > 0)).sum()) <= 1:
            return None
        rates = torch.where((saved > 0) & (saved <= most), self.costs() / saved.clamp_min(1), torch.inf)
        place = int(rates.argmin())
        rate = float(rates[place])
        return (rate, int(self.units[place])) if rate < float("inf") else None

    def remove(self, unit: int) -> None:
        """Take a unit out, and move the other columns.

        Args:
            unit: Its number.
        """
        place, going = self._of[unit]
        self._in[place] = False
        self._costs = None
        step = torch.linalg.solve(self._inverse[going][:, going], self._inverse[going])
        self._seen.addmm_(self._seen[:, going], step, alpha=-1)
        self._inverse.addmm_(self._inverse[:, going], step, alpha=-1)
        self._seen[:, going] = 0  # but for rounding they are by now
        self._inverse[going], self._inverse[:, going] = 0, 0
