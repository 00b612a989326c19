"""How far a removal from a trained network goes, and in which steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from secateur.errors import InvalidArgumentError
from secateur.pruning.patterns import Pattern
from secateur.pruning.rounds import TrainedWeights
from secateur.pruning.trained_units import TrainedUnits

__all__ = ["Extent", "Target"]

ROUNDS = 16
ROUNDS_UNTIL_STOP = 24
LAST_SHARE = 0.97  # of the weights, where a removal that stops by itself ends at the latest


@dataclass(frozen=True)
class Target:
    """What a removal is asked for; nothing of it where the evidence stops.

    Attributes:
        sparsity: Share of the weights that may go, to be out.
        pattern: Zeros that are allowed, all of which are to be there.
        multiply_adds: Share of the network's multiply-adds to be left.
    """

    sparsity: float | None = None
    pattern: Pattern | None = None
    multiply_adds: float | None = None

    def check(
        self, kinds: tuple[str, ...], rounds: int | Sequence[float] | None, max_loss_rise: float | None
    ) -> None:
        """Refuse targets that contradict each other or the other arguments.

        Args:
            kinds: Granularities.
            rounds: As for `prune_trained`.
            max_loss_rise: As for `prune_trained`.

        Raises:
            InvalidArgumentError: Naming the argument.
        """
        shares = {"sparsity": self.sparsity, "multiply_adds": self.multiply_adds}
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 1:
                raise InvalidArgumentError(f"{name}: expected a share between 0 and 1, got {share}")
        if self.pattern is not None and kinds != ("weight",):
            raise InvalidArgumentError(
                f"granularity: expected 'weight' beside a pattern, got {' and '.join(kinds)}"
            )
        if self.pattern is not None and self.sparsity is not None:
            raise InvalidArgumentError(
                f"pattern: expected no sparsity beside it, since it has its own, got {self.sparsity}"
            )
        if self.multiply_adds is not None and self.sparsity is not None:
            raise InvalidArgumentError(
                f"multiply_adds: expected no sparsity beside it, got {self.sparsity}; leave one of them away"
            )
        self._check_rounds(rounds)
        if max_loss_rise is None:
            return
        if not 0 <= max_loss_rise < math.inf:
            raise InvalidArgumentError(
                f"max_loss_rise: expected nats per datum, finite and at least 0, got {max_loss_rise}"
            )
        if self != Target():
            what = "a pattern" if self.pattern else "multiply_adds" if self.multiply_adds else "a sparsity"
            raise InvalidArgumentError(
                "max_loss_rise: expected no target beside it, since it bounds where the evidence stops, got "
                f"{max_loss_rise} with {what}"
            )

    def _check_rounds(self, rounds: int | Sequence[float] | None) -> None:
        if isinstance(rounds, int) and rounds < 1:
            raise InvalidArgumentError(f"rounds: expected at least 1, got {rounds}")
        if not isinstance(rounds, Sequence):
            return
        if self.multiply_adds is not None:
            raise InvalidArgumentError(
                f"rounds: expected their number beside multiply_adds, got the shares {list(rounds)}"
            )
        shares = [0.0, *rounds]
        if len(shares) == 1 or any(not before < after <= 1 for before, after in pairwise(shares)):
            raise InvalidArgumentError(f"rounds: expected rising shares between 0 and 1, got {list(rounds)}")
        last = self.sparsity if self.pattern is None else self.pattern.sparsity
        if last is not None and not math.isclose(rounds[-1], last, abs_tol=1e-3):
            raise InvalidArgumentError(
                f"rounds: expected the last share to be the sparsity {last:.4g}, got {rounds[-1]}"
            )


@dataclass(frozen=True)
class Extent:
    """What there is to remove, what is out, and what is to be: weights, or the multiply-adds of whole units.

    Attributes:
        total: All that may go.
        out: What is out already.
        target: What is to be out; None where the evidence stops.
        to_the_end: Whether the last step removes all that a pattern lets go.
    """

    total: int
    out: int
    target: int | None
    to_the_end: bool = False

    @classmethod
    def of(
        cls, model: nn.Module, weights: TrainedWeights, target: Target, units: TrainedUnits | None
    ) -> "Extent":
        """Measure weights and target.

        Args:
            model: The network.
            weights: Those that may go.
            target: What was asked for.
            units: Whole units that may go; None where single weights do.

        Raises:
            InvalidArgumentError: If more is out already, or may not go.
        """
        total, out = weights.num_weights, weights.num_out
        if units is not None:
            total, out = round(units.total(weights.keep)), round(units.out(weights.keep))
        if target.pattern is not None:  # at least: some groups may have fewer in than the pattern keeps
            return cls(total, out, max(round(target.pattern.sparsity * total), out), to_the_end=True)
        if target.multiply_adds is not None:
            assert units is not None
            assert units.operations is not None
            sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
            whole = math.fsum(each * sizes[name] for name, each in units.operations.items())
            aim = round((1 - target.multiply_adds) * whole)
            most, least = 1 - units.most_out(weights.keep) / whole, 1 - out / whole
            if not most <= target.multiply_adds:
                raise InvalidArgumentError(
                    f"multiply_adds: expected at least {most:.4f}, since each layer keeps a unit, got "
                    f"{target.multiply_adds}"
                )
            if not target.multiply_adds <= least:
                raise InvalidArgumentError(
                    f"multiply_adds: expected at most {least:.4f}, which is what is left already, got "
                    f"{target.multiply_adds}"
                )
            return cls(total, out, aim)
        if target.sparsity is None:
            return cls(total, out, None)
        aim = round(target.sparsity * total)
        if aim < out:
            raise InvalidArgumentError(
                f"sparsity: expected at least {out / total:.4f}, which is out already, got {target.sparsity}"
            )
        if aim > (room := total if units is None else units.most_out(weights.keep)):
            raise InvalidArgumentError(
                f"sparsity: expected at most {room / total:.4f}, since each layer keeps a unit, "
                f"got {target.sparsity}"
            )
        return cls(total, out, aim)

    def steps(self, rounds: int | Sequence[float] | None) -> list[int]:
        """Return how much is to be out after each round.

        Args:
            rounds: How many, the share that is out after each, or None for as many as suit.
        """
        if isinstance(rounds, Sequence):
            steps = [round(share * self.total) for share in rounds]
            steps[-1] = steps[-1] if self.target is None else self.target
        else:
            last = round(LAST_SHARE * self.total) if self.target is None else self.target
            count = rounds or (ROUNDS_UNTIL_STOP if self.target is None else ROUNDS)
            left, least = self.total - self.out, max(self.total - last, 1)
            steps = [
                self.total - round(left * (least / left) ** (number / count)) for number in range(1, count)
            ]
            steps = [number for number in steps if number < last] + [last]
        if self.to_the_end:
            steps[-1] = self.total
        return sorted({number for number in steps if number > self.out})
