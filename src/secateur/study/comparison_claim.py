"""The published claim put to the test: reduction against the horseshoe at the same time of training.

A reduced network and a shrunk one are compared seed by seed at the end of the shorter of their two runs, each
at its last epoch that was done by then. A method whose epochs take longer is so met at an earlier epoch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product

from secateur.study import wording
from secateur.study.comparison_runs import ComparisonRun, Group, Variant, mean_and_error
from secateur.study.comparison_table import Cell
from secateur.study.record import Epoch

__all__ = ["TITLE", "Duel", "claim_html", "claim_markdown", "duels"]

REDUCTION = ("bmr-spike-and-slab", "bmr-horseshoe", "calibrated")
HORSESHOE = ("tiered-ff", "horseshoe-ff")

SCORES: dict[str, tuple[str, bool]] = {
    "accuracy": ("accuracy", True),
    "negative_log_likelihood": ("NLL", False),
    "expected_calibration_error": ("ECE", False),
}
"""Field of `Epoch`, its name in the table, and whether more of it is better."""

TITLE = "Reduction against the horseshoe at the same time"
HEAD = ("reduction", "horseshoe", "seeds", "minutes", "removed, %", "accuracy", "NLL", "ECE", "holds")
NUMBER = ' class="num"'
PLUS_MINUS = " \N{PLUS-MINUS SIGN} "
EXPLANATION = (
    "At the end of the shorter of two runs of the same seed, each at its last epoch by then: the score of "
    f"the reduced network minus that of the one under a horseshoe prior, mean{PLUS_MINUS}standard error over "
    "seeds, of the networks at the posterior mean (one pass). The claim of arXiv 2309.12095 holds where the "
    "first is better in all three with at least as much removed. Minutes are those of the runs as they were: "
    "on a machine that was busy with something else they compare load and not methods."
)


@dataclass(frozen=True)
class Duel:
    """A method that reduces against one that shrinks.

    Attributes:
        reduction: Label of the first.
        horseshoe: Label of the second.
        seconds: Of training at which they were compared.
        removed: Shares removed by then, the first's and the second's.
        differences: Score of the first minus score of the second, by the field of `Epoch`.
    """

    reduction: str
    horseshoe: str
    seconds: Cell
    removed: tuple[Cell, Cell]
    differences: dict[str, Cell]

    @property
    def verdict(self) -> str:
        """Whether the first is better in all scores at equal or higher sparsity; where not, in what."""
        better = {
            name: self.differences[field].mean > 0 if more else self.differences[field].mean < 0
            for field, (name, more) in SCORES.items()
        }
        better["sparsity"] = self.removed[0].mean >= self.removed[1].mean
        lost = [name for name, won in better.items() if not won]
        return f"not in {', '.join(lost)}" if lost else "yes"


def duels(group: Group) -> tuple[Duel, ...]:
    """Compare every method that reduces with every one that shrinks, where they have a seed in common.

    Args:
        group: Runs of one network on one data set.
    """
    reduced = [variant for variant in group.variants if variant.method in REDUCTION]
    shrunk = [variant for variant in group.variants if variant.method in HORSESHOE]
    met = [(first, second, _meetings(first, second)) for first, second in product(reduced, shrunk)]
    return tuple(_duel(first.label, second.label, meetings) for first, second, meetings in met if meetings)


@dataclass(frozen=True)
class _Meeting:
    """Two runs after the same seconds of training."""

    seconds: float
    first: Epoch
    second: Epoch


def _meetings(first: Variant, second: Variant) -> list[_Meeting]:
    """Return the meetings of the runs of the same seed on the same kind of device."""
    others = {(run.seed, run.device): run for run in second.runs}
    met = [
        _at_same_time(run, others[run.seed, run.device])
        for run in first.runs
        if (run.seed, run.device) in others
    ]
    return [meeting for meeting in met if meeting is not None]


def _at_same_time(first: ComparisonRun, second: ComparisonRun) -> _Meeting | None:
    """Return two runs as the shorter one ended; None where times are unknown or one had not an epoch yet."""
    totals = [run.elapsed[-1] if run.elapsed else math.nan for run in (first, second)]
    if not all(map(math.isfinite, totals)):
        return None
    epochs = [_last_epoch(run, min(totals)) for run in (first, second)]
    return None if epochs[0] is None or epochs[1] is None else _Meeting(min(totals), epochs[0], epochs[1])


def _last_epoch(run: ComparisonRun, seconds: float) -> Epoch | None:
    done = [epoch for epoch, at in zip(run.record.epochs, run.elapsed, strict=True) if at <= seconds]
    return done[-1] if done else None


def _duel(reduction: str, horseshoe: str, met: Sequence[_Meeting]) -> Duel:
    def over_seeds(value: Callable[[_Meeting], float]) -> Cell:
        return Cell(*mean_and_error(map(value, met)))

    def difference(field: str) -> Cell:
        return over_seeds(lambda meeting: getattr(meeting.first, field) - getattr(meeting.second, field))

    return Duel(
        reduction=reduction,
        horseshoe=horseshoe,
        seconds=over_seeds(lambda meeting: meeting.seconds),
        removed=(
            over_seeds(lambda meeting: meeting.first.sparsity),
            over_seeds(lambda meeting: meeting.second.sparsity),
        ),
        differences={field: difference(field) for field in SCORES},
    )


def claim_markdown(group: Group) -> str:
    """Return the table of a group's duels in Markdown, explained; empty where there are none.

    Args:
        group: Runs of one network on one data set.
    """
    rows = [f"| {' | '.join(_texts(duel))} |" for duel in duels(group)]
    if not rows:
        return ""
    return "\n".join([
        f"{TITLE}. {EXPLANATION}\n",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
        *rows,
    ])


def claim_html(group: Group) -> str:
    """Return the table of a group's duels as a section of a page; empty where there are none.

    Args:
        group: Runs of one network on one data set.
    """
    body = "".join(f"<tr>{_cells('td', _texts(duel))}</tr>\n" for duel in duels(group))
    if not body:
        return ""
    return (
        f'<section class="plate" id="{escape(group.name)}-claim">\n<h3>{TITLE}</h3>\n'
        f'<p class="note">{escape(EXPLANATION)}</p>\n<div class="scroll" tabindex="0"><table class="means">\n'
        f"<thead><tr>{_cells('th', HEAD)}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n</section>\n"
    )


def _texts(duel: Duel) -> tuple[str, ...]:
    """Return a row of the table, cell by cell."""
    return (
        duel.reduction,
        duel.horseshoe,
        str(duel.seconds.count),
        wording.number(duel.seconds.mean / 60, 1),
        " / ".join(wording.number(100 * cell.mean, 1) for cell in duel.removed),
        *(_signed(duel.differences[field]) for field in SCORES),
        duel.verdict,
    )


def _signed(cell: Cell) -> str:
    sign = "+" if cell.mean > 0 else ""
    error = f"{PLUS_MINUS}{wording.number(cell.error, 4)}" if math.isfinite(cell.error) else ""
    return f"{sign}{wording.number(cell.mean, 4)}{error}"


def _cells(tag: str, texts: Sequence[str]) -> str:
    """Return the cells of a row in HTML; the outer ones hold words and stand at the left."""
    words = (0, 1, len(HEAD) - 1)
    return "".join(
        f"<{tag}{'' if place in words else NUMBER}>{escape(text)}</{tag}>" for place, text in enumerate(texts)
    )
