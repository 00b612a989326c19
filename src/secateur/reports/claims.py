"""What the numbers do and do not say: the published claim put to the test, and warnings where they mislead.

The claim of arXiv 2309.12095 is that reduction beats the horseshoe. Runs of both are compared seed by seed:
at the end, and at the same time, which is as the shorter of the two ended, each at its last epoch that was
done by then. The history holds the scores of one pass; those of the averaged prediction exist only at the
end.
"""

import math
from collections.abc import Mapping

from pandas import DataFrame, Series

from secateur.reports import advice
from secateur.reports.columns import SCORE_COLUMNS, cell_text
from secateur.reports.record import SCORES, Record
from secateur.reports.tables import Group
from secateur.runs import formatting

__all__ = ["HEAD", "claim_rows", "paired_comparisons", "remarks"]

REDUCTION = ("bmr-spike-and-slab", "bmr-horseshoe", "calibrated", "joint")
HORSESHOE = ("tiered-ff", "horseshoe-ff", "tiered-ff-tuned", "horseshoe-ff-tuned")
CLAIMED = tuple(column for column in SCORE_COLUMNS if column.key in SCORES[:3])

HEAD = (
    "reduction", "horseshoe", "when", "seeds", "minutes", "removed, %",
    *(column.title for column in CLAIMED), "holds",
)  # fmt: skip
_UNEQUAL = 0.2  # of all weights: scores at shares further apart are not of networks of one size


def paired_comparisons(group: Group) -> DataFrame:
    """Compare every method that reduces with every one that has a horseshoe prior, seed by seed.

    Args:
        group: Runs of one network on one data set.

    Returns:
        Mean, standard error and count over seeds of the differences in scores, of minutes and of the shares
        removed, by (reduction, horseshoe, when); columns are (name, "mean" | "sem" | "count").
    """
    rows = []
    columns = ["label", "method", "seed", "device"]
    both = group.runs.assign(run=group.runs.index)[[*columns, "run"]]
    pairs = both[both["method"].isin(REDUCTION)].merge(
        both[both["method"].isin(HORSESHOE)], on=["seed", "device"], suffixes=("", "_other")
    )
    for _, pair in pairs.iterrows():
        first, second = group.records[pair["run"]], group.records[pair["run_other"]]
        for when, states in (
            ("same time", _at_same_time(first, second)),
            ("end", (_at_the_end(first), _at_the_end(second))),
        ):
            if states is not None:
                a, b = states
                rows.append(
                    {"reduction": pair["label"], "horseshoe": pair["label_other"], "when": when}
                    | {name: a[name] - b[name] for name in SCORES[:3]}
                    | {"minutes": a["seconds"] / 60, "minutes_other": b["seconds"] / 60}
                    | {"removed": a["sparsity"], "removed_other": b["sparsity"]}
                )
    if not rows:
        return DataFrame()
    # in the order of the table of scores, whatever the order of the seeds
    order = {label: place for place, label in enumerate(group.labels)}
    table = DataFrame(rows)
    table = table.sort_values(["reduction", "horseshoe"], key=lambda names: names.map(order), kind="stable")
    return table.groupby(["reduction", "horseshoe", "when"], sort=False).agg(["mean", "sem", "count"])


def _at_same_time(first: Record, second: Record) -> tuple[Series, Series] | None:
    """Return both runs' last epoch by the end of the shorter; None where a time or an epoch is missing."""
    ends = [record.history["seconds"].iloc[-1] if len(record.history) else math.nan
            for record in (first, second)]  # fmt: skip
    then = min(ends)
    if not all(map(math.isfinite, ends)):
        return None
    done = [record.history[record.history["seconds"] <= then] for record in (first, second)]
    if any(table.empty for table in done):
        return None
    a, b = (table.iloc[-1].copy() for table in done)
    a["seconds"] = b["seconds"] = then
    return a, b


def _at_the_end(record: Record) -> Mapping[str, float]:
    return vars(record.averaged) | {"seconds": record.seconds, "sparsity": record.sparsity}


def claim_rows(group: Group) -> list[tuple[str, ...]]:
    """Return the paired comparisons of a group as rows of text under `HEAD`, if any.

    Args:
        group: Runs of one network on one data set.
    """
    if not group.of_classes:
        return []
    table = paired_comparisons(group)
    rows = []
    for (first, second, when), row in table.iterrows():
        means = row.xs("mean", level=1)
        minutes = (formatting.number(means[key], 1) for key in ("minutes", "minutes_other"))
        removed = (formatting.number(100 * means[key], 1) for key in ("removed", "removed_other"))
        scores = [
            ("+" if row[column.key]["mean"] > 0 else "")
            + cell_text(column, row[column.key]["mean"], row[column.key]["sem"])
            for column in CLAIMED
        ]
        seeds = str(int(row["accuracy"]["count"]))
        rows.append((first, second, when, seeds, " / ".join(dict.fromkeys(minutes)), " / ".join(removed),
                     *scores, verdict(means)))  # fmt: skip
    return rows


def verdict(means: Series) -> str:
    """Say "yes" if reduction is better in all scores with at least as much removed, else where not.

    Args:
        means: Differences by score, and the shares `removed` and `removed_other`.
    """
    lost = [
        column.title
        for column in CLAIMED
        if not (1 if column.better == "high" else -1) * means[column.key] > 0
    ]
    if not means["removed"] >= means["removed_other"]:
        lost.append("sparsity")
    return f"not in {', '.join(lost)}" if lost else "yes"


def remarks(group: Group) -> list[str]:
    """Return warnings where a table of a comparison sets unequal things side by side.

    Args:
        group: Runs of one network on one data set.
    """
    runs, found = group.runs, []
    removed = group.means["sparsity"]["mean"]
    if removed.max() - removed.min() > _UNEQUAL:
        found.append(
            f"Networks of unequal size stand side by side: {formatting.percent(removed.min())} is removed by "
            f"{removed.idxmin()}, {formatting.percent(removed.max())} by {removed.idxmax()}. A better score "
            "with less removed is no better method."
        )
    if runs["epochs"].nunique() > 1:
        spans = runs.groupby("label", sort=False)["epochs"].max()
        found.append(
            f"Runs of unequal length stand side by side: {spans.min():g} epochs ({spans.idxmin()}) to "
            f"{spans.max():g} ({spans.idxmax()})."
        )
    if runs["epochs"].min() < advice.FEW_EPOCHS:
        few = runs[runs["epochs"] < advice.FEW_EPOCHS]
        found.append(
            f"{len(few)} of {len(runs)} runs have {few['epochs'].max():g} epochs or fewer: such scores rank "
            "how fast methods start, not where they end."
        )
    accuracy = group.means["accuracy"]["mean"]
    lost = [label for label in group.labels
            if advice.at_chance(group.of(label)[0], accuracy[label])]  # fmt: skip
    if lost:
        found.append(f"At chance, so that other scores say nothing: {', '.join(lost)}.")
    if (counts := group.means["negative_log_likelihood"]["count"]).min() < 2:
        found.append(
            f"{int((counts < 2).sum())} of {len(counts)} methods ran with one seed: their differences have "
            "no error, and may be chance."
        )
    if runs["device"].nunique() > 1:
        found.append("Runs are from different kinds of device: their times do not compare.")
    odd = [name for name in runs.index if group.records[name].evaluated_on != "test"]
    if odd:
        found.append(f"Judged on training data for want of a test set: {', '.join(odd)}.")
    if group.dense is None:
        found.append(
            "No run here kept all its weights, so there is no dense baseline: add the method flat-map."
        )
    return found
