"""Test the published claim: reduction against the horseshoe, after the same time and at the end.

A reduced network and a shrunk one are compared seed by seed. At the same time: as the shorter of their two
runs ended, each at its last epoch that was done by then, so that a method whose epochs take longer is met at
an earlier one. The history holds the scores of one pass; those of the averaged prediction exist only at
the end.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product

from secateur.reports.comparison_runs import ComparisonRun, Group, MethodRuns, mean_and_error
from secateur.reports.comparison_table import COLUMNS, Cell, Column
from secateur.runs import formatting
from secateur.runs.records import Epoch, Scores

__all__ = ["TITLE", "PairedComparison", "claim_html", "claim_markdown", "paired_comparisons"]

REDUCTION = ("bmr-spike-and-slab", "bmr-horseshoe", "calibrated")
HORSESHOE = ("tiered-ff", "horseshoe-ff")

CLAIMED = ("accuracy", "negative_log_likelihood", "expected_calibration_error")
SCORES = tuple(column for column in COLUMNS if column.key in CLAIMED)
"""The columns that the claim is about; their keys are fields of `Scores` and of `Epoch`."""

TITLE = "Reduction against the horseshoe"
HEAD = (
    "reduction",
    "horseshoe",
    "when",
    "seeds",
    "minutes",
    "removed, %",
    *(column.title for column in SCORES),
    "holds",
)
WORDS = (0, 1, 2, len(HEAD) - 1)
"""Columns of words, which stand at the left."""

NUMBER = ' class="num"'
EXPLANATION = (
    "The score of the reduced network minus that of the one under a horseshoe prior, "
    "mean \N{PLUS-MINUS SIGN} standard error over seeds that both have. *Same time*: as the shorter of the "
    "two runs ended, each at its last epoch by then, networks at the posterior mean (one pass). *End*: "
    "after all epochs of either, predictions averaged over posterior samples. The claim of arXiv "
    "2309.12095 holds where the first is better in all three with at least as much removed. Minutes are "
    "those of the runs as they were: on a machine that was busy with something else they compare load "
    "and not methods."
)


@dataclass(frozen=True)
class PairedComparison:
    """Differences between a method that reduces and one with a horseshoe prior, over common seeds.

    Attributes:
        reduction: Label of the first.
        horseshoe: Label of the second.
        when: "same time" or "end".
        seconds: Of training by then, the first's and the second's.
        removed: Shares removed by then.
        differences: Score of the first minus score of the second, by the field of `Scores`.
    """

    reduction: str
    horseshoe: str
    when: str
    seconds: tuple[Cell, Cell]
    removed: tuple[Cell, Cell]
    differences: dict[str, Cell]

    @property
    def verdict(self) -> str:
        """Say "yes" if reduction is better in all scores at equal or higher sparsity, else where not."""
        better = {
            column.title: (1 if column.better == "high" else -1) * self.differences[column.key].mean > 0
            for column in SCORES
        }
        better["sparsity"] = self.removed[0].mean >= self.removed[1].mean
        lost = [name for name, won in better.items() if not won]
        return f"not in {', '.join(lost)}" if lost else "yes"


def paired_comparisons(group: Group) -> tuple[PairedComparison, ...]:
    """Compare every method that reduces with every method that has a horseshoe prior, seed by seed.

    Args:
        group: Runs of one network on one data set.
    """
    reduced = [variant for variant in group.variants if variant.method in REDUCTION]
    shrunk = [variant for variant in group.variants if variant.method in HORSESHOE]
    found = []
    for first, second in product(reduced, shrunk):
        pairs = _pairs(first, second)
        scores = {
            "same time": [both for a, b in pairs if (both := _at_same_time(a, b)) is not None],
            "end": [(_at_the_end(a), _at_the_end(b)) for a, b in pairs],
        }
        found += [
            _paired_comparison(first.label, second.label, when, both) for when, both in scores.items() if both
        ]
    return tuple(found)


@dataclass(frozen=True)
class ScoreAtTime:
    """Sparsity and scores of a run after some seconds of training."""

    seconds: float
    removed: float
    scores: Epoch | Scores


def _pairs(first: MethodRuns, second: MethodRuns) -> list[tuple[ComparisonRun, ComparisonRun]]:
    """Return the runs of the same seed on the same kind of device."""
    others = {(run.seed, run.device): run for run in second.runs}
    return [(run, others[run.seed, run.device]) for run in first.runs if (run.seed, run.device) in others]


def _at_same_time(first: ComparisonRun, second: ComparisonRun) -> tuple[ScoreAtTime, ScoreAtTime] | None:
    """Return both runs' scores when the shorter run ended; None where a time or an epoch is missing."""
    totals = [run.elapsed[-1] if run.elapsed else math.nan for run in (first, second)]
    if not all(map(math.isfinite, totals)):
        return None
    a, b = (_after(run, min(totals)) for run in (first, second))
    return None if a is None or b is None else (a, b)


def _after(run: ComparisonRun, seconds: float) -> ScoreAtTime | None:
    done = [epoch for epoch, at in zip(run.record.epochs, run.elapsed, strict=True) if at <= seconds]
    return ScoreAtTime(seconds, done[-1].sparsity, done[-1]) if done else None


def _at_the_end(run: ComparisonRun) -> ScoreAtTime:
    return ScoreAtTime(run.record.seconds, run.record.sparsity, run.record.averaged)


def _paired_comparison(
    reduction: str, horseshoe: str, when: str, pairs: Sequence[tuple[ScoreAtTime, ScoreAtTime]]
) -> PairedComparison:
    def over_seeds(value: Callable[[ScoreAtTime], float]) -> tuple[Cell, Cell]:
        first, second = zip(*pairs, strict=True)
        return Cell(*mean_and_error(map(value, first))), Cell(*mean_and_error(map(value, second)))

    def difference(field: str) -> Cell:
        return Cell(*mean_and_error(getattr(a.scores, field) - getattr(b.scores, field) for a, b in pairs))

    return PairedComparison(
        reduction=reduction,
        horseshoe=horseshoe,
        when=when,
        seconds=over_seeds(lambda run: run.seconds),
        removed=over_seeds(lambda run: run.removed),
        differences={column.key: difference(column.key) for column in SCORES},
    )


def claim_markdown(group: Group) -> str:
    """Return the paired comparisons of a group as a Markdown table; empty where there are none.

    Args:
        group: Runs of one network on one data set.
    """
    rows = [f"| {' | '.join(_texts(pair))} |" for pair in paired_comparisons(group)]
    if not rows:
        return ""
    return "\n".join([
        f"{TITLE}. {EXPLANATION}\n",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
        *rows,
    ])


def claim_html(group: Group) -> str:
    """Return the paired comparisons of a group as an HTML section; empty where there are none.

    Args:
        group: Runs of one network on one data set.
    """
    body = "".join(f"<tr>{_cells('td', _texts(pair))}</tr>\n" for pair in paired_comparisons(group))
    if not body:
        return ""
    explanation = escape(EXPLANATION.replace("*", ""))
    return (
        f'<section class="figures" id="{escape(group.name)}-claim">\n<h3>{TITLE}</h3>\n'
        f'<p class="note">{explanation}</p>\n<div class="scroll" tabindex="0"><table class="means">\n'
        f"<thead><tr>{_cells('th', HEAD)}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n</section>\n"
    )


def _texts(pair: PairedComparison) -> tuple[str, ...]:
    """Return a row of the table, cell by cell."""
    minutes = [formatting.number(cell.mean / 60, 1) for cell in pair.seconds]
    return (
        pair.reduction,
        pair.horseshoe,
        pair.when,
        str(pair.differences["accuracy"].count),
        " / ".join(dict.fromkeys(minutes)),
        " / ".join(formatting.number(100 * cell.mean, 1) for cell in pair.removed),
        *(_signed(pair.differences[column.key], column) for column in SCORES),
        pair.verdict,
    )


def _signed(cell: Cell, column: Column) -> str:
    return ("+" if cell.mean > 0 else "") + cell.text(column)


def _cells(tag: str, texts: Sequence[str]) -> str:
    """Return the cells of a row in HTML."""
    return "".join(
        f"<{tag}{'' if place in WORDS else NUMBER}>{escape(text)}</{tag}>" for place, text in enumerate(texts)
    )
