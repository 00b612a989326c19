"""Render the page of a pruned network: one self-contained HTML file, made from `result.json` alone."""

import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from secateur.pruning.result import LayerRow
from secateur.reports import trained_figures, wording
from secateur.reports.style import svg
from secateur.reports.trained_record import TrainedRecord, read
from secateur.runs import formatting, write_whole

__all__ = ["render", "write"]

SCORES = {key: (name, meaning) for key, name, meaning in wording.METRICS} | {
    "accuracy": ("Accuracy", "share put in the right class; higher is better"),
    "perplexity": ("Perplexity", "exp of the mean loss per token; lower is better"),
    "root_mean_squared_error": ("Root mean squared error", "in the units of the targets; lower is better"),
    "continuous_ranked_probability_score": (
        "Continuous ranked probability score",
        "in the units of the targets; lower is better",
    ),
}
HEADLINES = ("accuracy", "perplexity", "root_mean_squared_error", "negative_log_likelihood")
"""Scores for the head of the page; the first that is there."""

FIGURES = (
    ("evidence", trained_figures.evidence, "Log evidence over the share of weights that is out"),
    (
        "losses",
        trained_figures.losses,
        "Rise of the loss on calibration and held-out data over the share of weights out",
    ),
    ("predictions", trained_figures.predictions, "Predicted and observed change of the evidence by round"),
)
STOPS = {
    "evidence": "The removal stopped by itself where the evidence peaks; the held-out loss allowed it.",
    "held-out loss": "The removal stopped by itself at the bound on the held-out loss, before the evidence "
    "peaked.",
    "target": "The removal ended at the share that was asked for.",
    "rounds": "The removal ended with the last round; it might have gone on.",
    "interruption": "The removal was interrupted; the network is that of the last whole round.",
}


def write(directory: Path) -> Path:
    """Write `report.html` into the directory of a pruned network and return its path.

    Args:
        directory: What `--out` of `secateur prune-trained` named.

    Raises:
        ArtifactError: If `result.json` is missing or damaged, or the page cannot be written.
    """
    target = Path(directory) / "report.html"
    write_whole(target, render(read(directory)).encode())
    return target


def render(record: TrainedRecord) -> str:
    """Return the page as HTML.

    Args:
        record: Numbers of the pruned network.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {
        "number": formatting.number,
        "percent": formatting.percent,
        "num_bytes": formatting.num_bytes,
        "count": lambda value: formatting.number(float(value), 0),
    }
    here = files("secateur.reports")
    costs = record.costs
    return environment.from_string(here.joinpath("trained.html.jinja").read_text(encoding="utf-8")).render(
        css=Markup(here.joinpath("report.css").read_text(encoding="utf-8")),
        record=record,
        scoreline=_scoreline(record),
        story=_story(record),
        stop=_stop(record),
        scores=_scores(record),
        figures=_figures(record),
        taken_back=record.chosen_round < len(record.trace),
        layers=[_layer(row, record) for row in record.layers],
        costs=costs,
        compacted=math.isfinite(costs.compact_bytes),
        timed=math.isfinite(costs.seconds_before) and math.isfinite(costs.seconds_after),
        configuration=_configuration(record.about),
    )


def _figures(record: TrainedRecord) -> dict[str, Markup]:
    if not record.trace:
        return {}
    return {
        name: Markup(svg(draw(record), name=f"trained-{name}", description=description))
        for name, draw, description in FIGURES
    }


def _scoreline(record: TrainedRecord) -> str:
    """Return the first score of the headlines before and after; empty where there is none."""
    for key in HEADLINES:
        before, after = (scores.get(key, math.nan) for scores in (record.scores_before, record.scores_after))
        if math.isfinite(before) and math.isfinite(after):
            name = SCORES[key][0]
            return (
                f"{name} {formatting.number(before, 4)} before, {formatting.number(after, 4)} after, on "
                "held-out data"
            )
    return ""


def _story(record: TrainedRecord) -> str:
    about = record.about
    rounds = len(record.trace)
    parts = [f"{rounds} round{'' if rounds == 1 else 's'} in {formatting.duration(record.seconds)}"]
    if about.get("device"):
        parts.append(f"on {about['device']}")
    parts.append(f"seed {about.get('seed', formatting.DASH)}")
    return f"{', '.join(parts)}. What stays has moved to its mean given the removal; {_training(about)}"


def _training(about: dict[str, Any]) -> str:
    """Return what was trained afterwards, in words."""
    found = about.get("recovery")
    if not isinstance(found, list) or not found or not all(isinstance(each, float | int) for each in found):
        return "no step of training was taken."
    if len(found) == 1:
        return (
            "then it learned for an epoch to answer as before, and was "
            f"{formatting.number(found[0], 4)} nats per datum from those answers on average."
        )
    first, last = (formatting.number(found[end], 4) for end in (0, -1))
    return (
        f"then it learned for {len(found)} epochs to answer as before, and came from {first} to {last} nats "
        "per datum near those answers."
    )


def _stop(record: TrainedRecord) -> str:
    text = STOPS.get(record.stopped_by, f"The removal was ended by: {record.stopped_by}.")
    if record.chosen_round < len(record.trace):
        text += f" {record.chosen_round} of the {len(record.trace)} rounds are in the network."
    if not record.chosen_round:
        return f"{text} Nothing was removed."
    last = record.trace[record.chosen_round - 1]
    if math.isfinite(last.held_out_rise):
        text += (
            f" The held-out loss went from {formatting.number(record.held_out_before, 4)} to "
            f"{formatting.number(last.held_out_loss, 4)} nats per datum; the standard error of the change is "
            f"{formatting.number(last.held_out_error, 4)}."
        )
    return text


def _scores(record: TrainedRecord) -> list[dict[str, Any]]:
    """Return rows of scores, those with a name of their own first."""
    names = [*SCORES, *sorted(set(record.scores_before) - set(SCORES))]
    rows = []
    for key in names:
        before, after = (scores.get(key, math.nan) for scores in (record.scores_before, record.scores_after))
        if math.isfinite(before) or math.isfinite(after):
            name, meaning = SCORES.get(key, (key.replace("_", " ").capitalize(), ""))
            rows.append({"name": name, "meaning": meaning, "before": before, "after": after})
    return rows


def _layer(row: LayerRow, record: TrainedRecord) -> dict[str, Any]:
    share = row.num_kept / max(row.num_weights, 1)
    units = ""
    if row.name in record.units_before:
        before = record.units_before[row.name]
        units = f"{record.units_after.get(row.name, before):,} of {before:,} units"
    return {
        "name": row.name or "(network)",
        "shape": " \N{MULTIPLICATION SIGN} ".join(map(str, row.shape)),
        "num_kept": row.num_kept,
        "num_weights": row.num_weights,
        "num_removed": row.num_removed,
        "share": share,
        "width": f"{100 * share:.2f}",
        "evidence": row.predicted_delta_f if row.num_removed else math.nan,
        "units": units,
    }


def _configuration(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was asked for, and with which versions, options under their own names."""
    rows: list[tuple[str, str]] = []
    for key, value in about.items():
        if key in {"format", "version", "command", "held_out_given"}:
            continue
        entries = value.items() if isinstance(value, Mapping) else [("", value)]
        for inner, each in entries:
            name = inner if key in {"options", "versions"} else f"{key} {inner}"
            if each is not None and not isinstance(each, Mapping):
                shown = ", ".join(map(str, each)) if isinstance(each, list) else str(each)
                rows.append((str(name).strip().replace("_", " "), shown))
    return rows
