"""HTML sections of the report of a run, in order."""

from collections.abc import Mapping
from html import escape

from secateur.reports import filters, run_figures, wording
from secateur.reports.record import Record
from secateur.reports.style import svg
from secateur.runs import formatting
from secateur.runs.records import Layer, Scores

__all__ = [
    "configuration",
    "epochs",
    "first_layer",
    "header",
    "layers",
    "reductions",
    "reliability",
    "results",
]


def header(record: Record) -> str:
    """Return the headline: sparsity, scores, method and time."""
    config = record.config
    share = escape(formatting.percent(record.sparsity))
    title = escape(wording.outcome(record)).replace(share, f"<b>{share}</b>")
    scores = wording.key_scores(record)
    story = (
        f"Method {config['method']}, {len(record.epochs)} epochs in {formatting.duration(record.seconds)} "
        f"({1000 * record.seconds_per_iteration:.1f} ms per iteration) on {config.get('device', 'cpu')}, "
        f"seed {config.get('seed', formatting.DASH)}."
    )
    if record.reductions and _target(record):
        story += (
            f" Weights were removed after {len(record.reductions)} of the epochs, those with least evidence "
            f"first, down to the {formatting.percent(_target(record))} that was asked for."
        )
    elif record.reductions:
        story += (
            f" After {len(record.reductions)} of the epochs, weights were removed where the evidence "
            f"favoured it{_cap(record)}. No final sparsity was set."
        )
    return (
        '<header>\n<p class="kicker">Secateur: report of a run</p>\n'
        f"<h1>{title}</h1>\n"
        + (f'<p class="scoreline">{escape(scores)}</p>\n' if scores else "")
        + f'<p class="lead">{escape(story)}</p>\n</header>\n'
    )


def _cap(record: Record) -> str:
    """Return in words how much could go at once, if the recipe limits it."""
    recipe = record.config.get("recipe")
    schedule = recipe.get("schedule") if isinstance(recipe, Mapping) else None
    cap = schedule.get("max_fraction") if isinstance(schedule, Mapping) else None
    if not isinstance(cap, int | float) or not cap < 1:
        return ""
    return f", the clearest cases first and at most {formatting.percent(cap)} of what was left at a time"


def _target(record: Record) -> float:
    for place in (record.config, record.config.get("recipe")):
        value = place.get("sparsity") if isinstance(place, Mapping) else None
        if isinstance(value, int | float):
            return float(value)
    return 0.0


def results(record: Record) -> str:
    """Return the test scores, averaged and in one pass."""
    columns: list[tuple[str, Scores]] = []
    if record.mean_network is None:
        columns.append(("the network", record.averaged))
    else:
        columns.append((f"average of {record.num_samples} samples", record.averaged))
        columns.append(("posterior mean, one pass", record.mean_network))
    head = "".join(f'<th class="num" scope="col">{escape(name)}</th>' for name, _ in columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}<small>{escape(meaning)}</small></th>'
        + "".join(
            f'<td class="num">{formatting.number(getattr(scores, key), 4)}</td>' for _, scores in columns
        )
        + "</tr>\n"
        for key, name, meaning in wording.METRICS
    )
    note = (
        "The average draws that many networks from the posterior and averages their probabilities. "
        "The posterior mean is a single ordinary network, the one in <code>model.safetensors</code>."
        if record.mean_network is not None
        else "This method gives a single network, the one in <code>model.safetensors</code>."
    )
    return (
        "<section>\n<h2>How well it predicts</h2>\n"
        f"<p>On {escape(wording.judged_on(record.evaluated_on))}. {note}</p>\n"
        f'<table class="scores">\n<thead><tr><th></th>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table>\n</section>\n"
    )


def epochs(record: Record) -> str:
    """Return the learning curves; empty where there is none."""
    panels = (
        ("accuracy", "Accuracy", False),
        ("negative_log_likelihood", "Negative log-likelihood", False),
        ("expected_calibration_error", "Calibration error", False),
        ("sparsity", "Weights removed, %", True),
    )
    drawn = "".join(
        "<figure>"
        + svg(
            run_figures.curve(record.epochs, metric, title=title, percent=percent),
            name=f"curve-{metric.replace('_', '-')}",
            description=f"{title} over the epochs",
        )
        + "</figure>\n"
        for metric, title, percent in panels
        if any(getattr(row, metric) == getattr(row, metric) for row in record.epochs)
    )
    if not drawn:
        return ""
    dots = (
        ' <span class="key"></span> marks an epoch that ended with a reduction.' if record.reductions else ""
    )
    return (
        f'<section>\n<h2>Epoch by epoch</h2>\n<p class="note">The posterior-mean network on the test '
        f'set.{dots}</p>\n<div class="pair">\n{drawn}</div>\n</section>\n'
    )


def layers(record: Record) -> str:
    """Return a table of kept weights and evidence by parameter."""
    rows = "".join(map(_layer, record.layers))
    fixed = (
        " Rows in grey are never pruned: the output layer says what the classes are."
        if any(not layer.prunable for layer in record.layers)
        else ""
    )
    return (
        f"<section>\n<h2>What was kept</h2>\n<p>{record.num_kept:,} of {record.num_weights:,} weights. "
        "Evidence for a removal is the log of how many times more probable the data are without the weights, "
        f"added up one weight at a time; above 0 it favours the smaller network.{fixed}</p>\n"
        '<table>\n<thead><tr><th scope="col">parameter</th><th class="wide" scope="col">shape</th>'
        '<th class="num" scope="col">kept</th><th class="num" scope="col">share</th><th class="bar"></th>'
        '<th class="num wide" scope="col">evidence for<br>the removal, nats</th></tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table>\n</section>\n"
    )


def _layer(layer: Layer) -> str:
    share = 100 * layer.kept
    colour = "var(--blue)" if layer.prunable else "var(--muted)"
    bar = (
        '<svg role="presentation"><rect width="100%" height="100%" rx="2" fill="var(--removed)"/>'
        f'<rect width="{share:.2f}%" height="100%" rx="2" fill="{colour}"/></svg>'
    )
    evidence = formatting.number(layer.delta_f, 0) if layer.prunable else formatting.DASH
    return (
        f'<tr class="{"" if layer.prunable else "fixed"}"><th scope="row">{escape(layer.name)}</th>'
        f'<td class="wide shape">{" &times; ".join(map(str, layer.shape))}</td>'
        f'<td class="num">{layer.num_kept:,} <small>of {layer.num_weights:,}</small></td>'
        f'<td class="num">{formatting.percent(layer.kept)}</td><td class="bar">{bar}</td>'
        f'<td class="num wide">{evidence}</td></tr>\n'
    )


def first_layer(record: Record) -> str:
    """Return a picture of the first layer's weights; empty where there is none."""
    if record.first_layer is None:
        return ""
    picture = filters.draw(record.first_layer.weight)
    drawing = svg(picture.figure, name="first-layer", description=picture.caption)
    key = '<span class="swatch"></span> removed'
    if picture.scale is not None:
        end = f"{picture.scale:.2g}"
        colours = f"background: linear-gradient(to right, {', '.join(filters.SIGNED)})"
        gradient = f'<span class="gradient" style="{colours}"></span>'
        key = f'{formatting.MINUS}{end} {gradient} +{end} <span class="gap"></span> {key}'
    return (
        f"<section>\n<h2>The first layer</h2>\n<p>{escape(picture.caption)} "
        f"<code>{escape(record.first_layer.name)}</code>, posterior mean.</p>\n"
        f"<figure>{drawing}<figcaption>{key}</figcaption></figure>\n</section>\n"
    )


def reliability(record: Record) -> str:
    """Return the reliability diagram; empty where there is none."""
    if not any(record.reliability.count):
        return ""
    drawing = svg(
        run_figures.reliability(record.reliability), name="reliability", description="Reliability diagram"
    )
    num_bins = sum(count > 0 for count in record.reliability.count)
    groups = "1 group" if num_bins == 1 else f"{num_bins} groups"
    judged_on = wording.judged_on(record.evaluated_on).capitalize()
    which = "averaged prediction" if record.mean_network is not None else "network"
    return (
        '<section>\n<h2>Is the confidence honest?</h2>\n<div class="pair">\n<figure>'
        f"{drawing}</figure>\n<div><p>When the {which} says 80 %, it should be right four times in five: "
        "then every point lies on the dashed line. Below the line it is surer than it should be, above it "
        f'more modest than it needs to be.</p>\n<p class="note">{escape(judged_on)} in {groups} of '
        "(nearly) equal size, sorted by confidence. Lines are 95 % intervals for chance.</p></div>\n</div>\n"
        "</section>\n"
    )


def reductions(record: Record) -> str:
    """Return predicted against observed delta_f; empty where nothing was removed."""
    rows = record.reductions
    if not rows:
        return ""
    predicted = sum(row.predicted_delta_f for row in rows)
    observed = sum(row.observed_delta_f for row in rows)
    drawing = svg(
        run_figures.reductions(rows),
        name="reductions",
        description="Predicted and observed change per reduction",
    )
    return (
        '<section>\n<h2>Did the evidence keep its promise?</h2>\n<div class="pair">\n<figure>'
        f"{drawing}</figure>\n<div><p>Each reduction promised a change of the evidence: the sum of what "
        "every removed weight promised on its own. Over all reductions that is "
        f"{formatting.number(predicted, 0)} nats; seen at the moment of removal, before any retraining, were "
        f"{formatting.number(observed, 0)}.</p>\n"
        '<p class="note">Observed is the change of the free energy: of the log likelihood, estimated on some '
        "training examples, and of what it costs to tell the weights from the prior.</p>\n"
        '<p class="note">The sum is optimistic. Two weights that can stand in for each other are each '
        "dispensable, but not both, and adding their evidence counts that promise twice. This is why it "
        "is safer to remove a few weights at a time and to train the rest in between.</p></div>\n</div>\n"
        "</section>\n"
    )


def configuration(record: Record) -> str:
    """Return the configuration and how to repeat the run."""
    config = record.config
    entries = {
        key: value for key, value in config.items() if key not in {"recipe", "versions", "command"}
    } | (config["recipe"] if isinstance(config.get("recipe"), Mapping) else {})
    listed = _definitions(entries)
    versions = config.get("versions")
    used = _definitions(versions) if isinstance(versions, Mapping) else ""
    line = wording.command(record)
    if line is not None:
        how = f"<pre>{escape(line)}</pre>\n"
    else:
        how = "<p>This run was started from Python, with the configuration above.</p>\n"
    return (
        f"<section>\n<h2>Configuration</h2>\n{listed}</section>\n"
        f"<section>\n<h2>To repeat it</h2>\n{how}"
        '<p class="note">The same seed and versions give the same result bit for bit on a CPU with the same '
        f"number of threads; elsewhere up to rounding.</p>\n{used}</section>\n"
    )


def _definitions(entries: Mapping[str, object]) -> str:
    rows = "".join(
        f"<div><dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(_value(value))}</dd></div>\n"
        for key, value in _flat(entries)
    )
    return f'<dl class="config">\n{rows}</dl>\n'


def _flat(entries: Mapping[str, object]) -> list[tuple[str, object]]:
    """Return entries in order, those of nested mappings under both their names."""
    rows: list[tuple[str, object]] = []
    for key, value in entries.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}: {inner}", v) for inner, v in _flat(value)]
        else:
            rows.append((str(key), value))
    return rows


def _value(value: object) -> str:
    if value is None or value == []:
        return formatting.DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return str(value)
