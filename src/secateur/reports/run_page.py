"""Render the report of a run: one self-contained HTML file for screens, phones and print.

It is made from the files of the run directory alone, so it can be made again at any time.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from secateur.reports import advice, figures, weight_figures
from secateur.reports.record import Record, read
from secateur.reports.style import panel, render
from secateur.runs import formatting, write_whole

__all__ = ["write"]

CURVES = (
    ("accuracy", "Accuracy"),
    ("negative_log_likelihood", "Negative log-likelihood"),
    ("expected_calibration_error", "Calibration error"),
    ("root_mean_squared_error", "Root mean squared error"),
    ("continuous_ranked_probability_score", "CRPS"),
    ("deviance", "Deviance"),
    ("sparsity", "Weights removed, %"),
)
HALF, TALL = (3.5, 2.3), (3.5, 3.2)
FORMS = {
    "dense": "every weight stored and multiplied", "masked": "zeros stored and multiplied",
    "compact": "dead units removed", "sparse": "sparse kernels where they were faster",
    "onnxruntime": "in another engine",
}  # fmt: skip
"""What a form of the network is, by a part of its name; the last that fits."""


def write(run_dir: Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    The file appears whole or not at all; an older report stays until the new one is complete.

    Args:
        run_dir: What `--out` of a finished fit names.

    Raises:
        ArtifactError: If a file of the run is missing or damaged, or the report cannot be written.
    """
    target, record = Path(run_dir) / "report.html", read(run_dir)
    config = record.config
    apart = {"recipe", "versions", "command", "inputs", "feature_names", "class_names"}
    known = {key: config[key] for key in config if key not in apart}
    recipe = config["recipe"] if isinstance(config.get("recipe"), Mapping) else {}
    versions = config["versions"] if isinstance(config.get("versions"), Mapping) else {}
    page = render(
        "run.html.jinja",
        record=record,
        title=advice.title(record),
        outcome=advice.outcome(record),
        remarks=advice.remarks(record),
        next_commands=advice.next_commands(record),
        command=advice.command(record),
        target=_number_in(record, "sparsity"),
        cap=_number_in(record, "schedule", "max_fraction"),
        metrics={name: advice.METRICS[name] for name in record.score_names},
        columns=_columns(record),
        curves=_curves(record),
        figures=_figures(record),
        forms=_forms(record),
        largest_difference=_largest_difference(record),
        configuration=described(known | recipe),
        versions=described(versions),
        **_filters(record),
    )
    write_whole(target, page.encode())
    return target


def _columns(record: Record) -> list[tuple[str, Mapping[str, float]]]:
    """Return head and scores of each column of the table of scores, the dense baseline last."""
    single = record.mean_network is None
    columns: list[tuple[str, Mapping[str, float]]] = [
        ("the network" if single else f"average of {record.num_samples} samples", asdict(record.averaged))
    ]
    if record.mean_network is not None:
        columns.append(("posterior mean, one pass", asdict(record.mean_network)))
    if record.num_kept < record.num_weights:
        head, scores = advice.dense_scores(record)
        columns += [(f"{head}, one pass", scores)] if scores else []
    return columns


def _curves(record: Record) -> list[Any]:
    return [
        panel(figures.figure_curve, record.history, metric, title, size=HALF, name=f"curve-{metric}",
              description=f"{title} over the epochs")
        for metric, title in CURVES if record.history[metric].notna().any()
    ]  # fmt: skip


def _figures(record: Record) -> dict[str, Any]:
    drawn = {}
    if record.reliability["count"].sum() > 0:
        drawn["reliability"] = panel(figures.figure_reliability, record.reliability, size=TALL,
                                     name="reliability", description="Reliability diagram")  # fmt: skip
    if len(record.intervals):
        levels = record.intervals.rename(columns={"level": "confidence", "coverage": "accuracy"})
        drawn["intervals"] = panel(
            partial(figures.figure_reliability, title="Share of targets inside"),
            levels,
            size=TALL,
            name="intervals",
            description="Coverage of intervals",
        )
    if len(record.reductions):
        words = "Predicted and observed change per reduction"
        drawn["reductions"] = panel(
            figures.figure_reductions, record.reductions, size=TALL, name="reductions", description=words
        )
    return drawn


def _filters(record: Record) -> dict[str, Any]:
    name = record.first_layer
    if name is None:
        return {"first_layer": None, "filters": None, "picture": None}
    shown = weight_figures.filters(record.weights([name])[name])
    picture = panel(
        weight_figures.figure_filters, shown, size=shown.size, name="first-layer", description=shown.caption
    )
    return {"first_layer": name, "filters": shown, "picture": picture, "signed": weight_figures.SIGNED}


def _forms(record: Record) -> list[dict[str, Any]]:
    """Return a row per form of the network that was measured."""
    bench = record.bench
    if bench is None:
        return []
    rows = []
    for name, row in bench.variants.iterrows():
        times = bench.timings[bench.timings["variant"] == name].to_dict("records")
        meaning = next((words for part, words in reversed(FORMS.items()) if part in str(name)), "")
        rows.append({"name": name, "meaning": meaning, "times": times, **row})
    return rows


def _largest_difference(record: Record) -> float:
    """Return by how much a form's outputs differ from the masked network's, a separate dense run left out."""
    if record.bench is None:
        return 0.0
    differences = record.bench.variants["largest_difference"]
    if record.bench.dense_run is not None:
        differences = differences[[not str(name).startswith("dense") for name in differences.index]]
    return float(differences.max()) if len(differences) else 0.0


def _number_in(record: Record, *path: str) -> float | None:
    """Return a number of the configuration or, below it, of the recipe; None where there is none."""
    for value in (record.config, record.config.get("recipe")):
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def described(entries: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return entries as words, those of nested mappings under both their names."""
    rows: list[tuple[str, str]] = []
    for key, value in entries.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}: {inner}".replace("_", " "), words) for inner, words in described(value)]
        else:
            rows.append((str(key).replace("_", " "), _words(value)))
    return rows


def _words(value: Any) -> str:
    if value is None or value == []:
        return formatting.DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
