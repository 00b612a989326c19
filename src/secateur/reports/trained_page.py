"""Render the page of a pruned network: one self-contained HTML file, made from `result.json` alone."""

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from secateur.errors import ArtifactError
from secateur.export.trained_costs import TrainedCosts
from secateur.export.trained_run import FORMAT, RESULT
from secateur.pruning.result import LayerRow, PruneResult, PruneRound
from secateur.reports.advice import METRICS
from secateur.reports.figures import label_axes, label_ends, spread_over_decades
from secateur.reports.style import BLUE, GRID, MUTED, ORANGE, PAPER, panel, render
from secateur.runs import formatting, write_whole
from secateur.runs.formatting import printable
from secateur.runs.reading import checked, read_object
from secateur.runs.records import Number

__all__ = ["TrainedRecord", "is_pruned_network", "read", "write"]

SCORES = METRICS | {
    "accuracy": ("Accuracy", "share put in the right class; higher is better"),
    "perplexity": ("Perplexity", "exp of the mean loss per token; lower is better"),
    "root_mean_squared_error": ("Root mean squared error", "in the units of the targets; lower is better"),
    "continuous_ranked_probability_score": (
        "Continuous ranked probability score", "in the units of the targets; lower is better",
    ),
}  # fmt: skip
SIZE = (3.5, 2.7)
_HIDDEN = {"format", "version", "command", "held_out_given"}


@dataclass(frozen=True, eq=False)
class TrainedRecord:
    """All numbers of a pruned network; log scores in nats, nan where a number was not measured.

    Attributes:
        result: What was removed, without masks.
        costs: Bytes, and seconds of a batch; None where nothing was measured.
        before: Held-out scores by name.
        after: The same afterwards.
        seconds: That the removal took.
        about: Further entries as they are in the file: command, model, data, options, versions.
    """

    result: PruneResult
    costs: TrainedCosts | None
    before: Mapping[str, float]
    after: Mapping[str, float]
    seconds: float
    about: Mapping[str, Any]

    @property
    def max_loss_rise(self) -> float:
        """Rise of the held-out loss that the caller allowed, in nats per datum; nan where none was named."""
        options = self.about.get("options")
        value = options.get("max_loss_rise") if isinstance(options, dict) else None
        return float(value) if isinstance(value, int | float) else math.nan


def is_pruned_network(directory: Path) -> bool:
    """Return whether a directory is one that `secateur prune-trained` wrote."""
    return (directory / RESULT).is_file()


def read(directory: Path) -> TrainedRecord:
    """Return the numbers of a pruned network; `write` names what it raises."""
    path = Path(directory) / RESULT
    if not path.is_file():
        raise ArtifactError(
            f"expected {RESULT} in {directory}, got no such file; secateur prune-trained writes it"
        )
    file, values = read_object(path, _file())
    if file.format != FORMAT:
        raise _damaged(path, f"expected the format {FORMAT}, got {file.format!r:.60}")
    result = PruneResult(
        {},
        {},
        layers=tuple(LayerRow(**printable(vars(row))) for row in file.layers),
        trace=tuple(PruneRound(**vars(row)) for row in file.trace),
        **printable({key: getattr(file, key) for key in _PLAIN}),
    )
    if len(result.trace) < file.chosen_round:
        raise _damaged(
            path, f"expected at most {len(result.trace)} rounds to be chosen, got {file.chosen_round}"
        )
    if not result.num_weights or any(row.num_kept > row.num_weights for row in result.layers):
        raise _damaged(path, "expected layers with weights that keep no more than they have, got others")
    known = {*vars(file), "loss_after", "predicted_delta_f"} - {"format"}
    known |= {name for name in vars(PruneResult) if name.startswith("num_") or "sparsity" in name}
    scores = file.scores or {}
    return TrainedRecord(
        result=result,
        costs=None if file.costs is None else TrainedCosts(**printable(vars(file.costs))),
        before=printable(scores.get("before", {})),
        after=printable(scores.get("after", {})),
        seconds=file.seconds,
        about={key: value for key, value in printable(values).items() if key not in known},
    )


# The fields of a result are named once, in its class; masks and evidence of entries are not in the file.
_PLAIN = tuple(
    each.name for each in fields(PruneResult) if each.name not in {"masks", "delta_f", "layers", "trace"}
)


@cache
def _file() -> Any:
    """Return what the file is read as."""
    return checked(
        PruneResult,
        without=("masks", "delta_f"),
        layers=tuple[checked(LayerRow), ...],  # type: ignore[misc]
        trace=tuple[checked(PruneRound), ...],  # type: ignore[misc]
        chosen_round=int,
        format=str,
        seconds=float,
        costs=checked(TrainedCosts) | None,
        scores=dict[str, dict[str, Number]] | None,
    )


def _damaged(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged: {what}; prune again, or take the file from an intact copy of the directory"
    )


def write(directory: Path) -> Path:
    """Write `report.html` into the directory of a pruned network and return its path.

    Args:
        directory: What `--out` of `secateur prune-trained` named.

    Raises:
        ArtifactError: If `result.json` is missing or damaged, or the page cannot be written.
    """
    target, record = Path(directory) / "report.html", read(directory)
    result = record.result
    page = render(
        "trained.html.jinja",
        record=record,
        result=result,
        costs=record.costs,
        scores=_scores(record),
        remarks=_remarks(record),
        next_commands=_next_commands(record, Path(directory)),
        taken_back=len(result.rounds) < len(result.trace),
        figures={
            name: panel(draw, result, record.max_loss_rise, size=SIZE, name=f"trained-{name}",
                        description=words)
            for name, draw, words in FIGURES if result.trace
        },
        recovery=_recovery(record.about),
        configuration=_configuration(record.about),
    )  # fmt: skip
    write_whole(target, page.encode())
    return target


def _scores(record: TrainedRecord) -> list[tuple[str, str, float, float]]:
    """Return name, meaning, and the score before and after, those with a name of their own first."""
    rows = []
    for key in dict.fromkeys([*SCORES, *sorted({**record.before, **record.after})]):
        before, after = (scores.get(key, math.nan) for scores in (record.before, record.after))
        if math.isfinite(before) or math.isfinite(after):
            name, meaning = SCORES.get(key, (key.replace("_", " ").capitalize(), ""))
            rows.append((name, meaning, before, after))
    return rows


def _remarks(record: TrainedRecord) -> list[str]:
    """Return warnings where the numbers mislead."""
    found = []
    if not record.about.get("held_out_given"):
        found.append(
            "The held-out data are a slice of the calibration data. Where the network was trained on these, "
            "its loss on them is too good to be true, and rises early: the stop is then on the safe side. "
            "Give --held-out data that it has not seen."
        )
    before, after = (scores.get("accuracy", math.nan) for scores in (record.before, record.after))
    if after < 0.5 * before:
        found.append(
            f"The accuracy is less than half of what it was ({formatting.number(after)} after "
            f"{formatting.number(before)}): other scores of such a network say little."
        )
    return found


def _next_commands(record: TrainedRecord, here: Path) -> list[tuple[str, str]]:
    """Return what to do next, each with the command to type."""
    found = [("Write this page again", shlex.join(["secateur", "report", str(here)]))]
    given = record.about.get("command")
    if isinstance(given, str) and not _recovery(record.about):
        try:
            words = shlex.split(given)
        except ValueError:
            return found
        if "--out" in words[:-1]:
            place = words.index("--out") + 1
            words[place] = f"{here}-recovered"
            found.insert(
                0, ("Let it learn for an epoch to answer as before", shlex.join([*words, "--recover", "1"]))
            )
    return found


def _recovery(about: Mapping[str, Any]) -> list[float]:
    """Return the divergence from the network's answers before, by epoch of training afterwards."""
    found = about.get("recovery")
    numbers = found if isinstance(found, list) else []
    return [float(each) for each in numbers] if all(isinstance(each, float | int) for each in numbers) else []


def _configuration(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was asked for, and with which versions, options under their own names."""
    rows: list[tuple[str, str]] = []
    for key, value in about.items():
        if key in _HIDDEN:
            continue
        entries = value.items() if isinstance(value, Mapping) else [("", value)]
        for inner, each in entries:
            name = inner if key in {"options", "versions"} else f"{key} {inner}"
            if each is not None and not isinstance(each, Mapping):
                shown = ", ".join(map(str, each)) if isinstance(each, list) else str(each)
                rows.append((str(name).strip().replace("_", " "), shown))
    return rows


def _sparsities(result: PruneResult) -> np.ndarray:
    """Return the share of weights that is out before the first round and after each."""
    first = result.trace[0]
    before = first.sparsity - first.num_removed / result.num_weights
    return np.array([max(before, 0.0), *(row.sparsity for row in result.trace)], dtype=float)


def _of(result: PruneResult, *keys: str) -> Iterator[np.ndarray]:
    return (np.array([getattr(row, key) for row in result.trace], dtype=float) for key in keys)


def _label_shares(axes: Axes, result: PruneResult, title: str) -> None:
    label_axes(axes, title, "weights out, %")
    x = _sparsities(result)
    room = 0.04 * max(float(x[-1] - x[0]), 0.01)
    axes.set_xlim(x[0] - room, x[-1] + room)
    axes.margins(y=0.1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))


def _rounds(axes: Axes, x: np.ndarray, y: np.ndarray, chosen: int, colour: str, *, line: bool = True) -> None:
    """Draw rounds: full where they are in the network, hollow and dashed where they were taken back."""
    if line:
        axes.plot(x[: chosen + 1], y[: chosen + 1], color=colour)
        axes.plot(x[chosen:], y[chosen:], color=colour, linewidth=1.2, dashes=(3, 2))
    axes.plot(x[: chosen + 1], y[: chosen + 1], "o", color=colour, markersize=4, markeredgewidth=0)
    axes.plot(x[chosen + 1 :], y[chosen + 1 :], "o", color=colour, markersize=4.4, markerfacecolor=PAPER,
              markeredgewidth=1.1)  # fmt: skip


def _mark_stop(axes: Axes, result: PruneResult) -> None:
    """Mark the share of weights that is out in the network."""
    at = float(_sparsities(result)[len(result.rounds)])
    axes.axvline(at, color=MUTED, linewidth=0.9, dashes=(1, 2), zorder=0)
    left = at > sum(axes.get_xlim()) / 2
    axes.annotate("in the network", (at, 1.0), xycoords=("data", "axes fraction"), textcoords="offset points",
                  xytext=(-4 if left else 4, -2), ha="right" if left else "left", va="top", color=MUTED,
                  size=8)  # fmt: skip


def figure_evidence(axes: Axes, result: PruneResult, allowed: float) -> None:
    """Draw the log evidence above that before any removal, over the share of weights that is out."""
    _label_shares(axes, result, "Log evidence gained, in nats")
    (observed,) = _of(result, "observed_delta_f")
    gained = np.cumsum([0.0, *observed])
    _rounds(axes, _sparsities(result), gained, len(result.rounds), BLUE)
    spread_over_decades(axes)
    _mark_stop(axes, result)


def figure_losses(axes: Axes, result: PruneResult, allowed: float) -> None:
    """Draw how much the loss rose, on calibration and on held-out data, beside the rise that was allowed."""
    _label_shares(axes, result, "Rise of the loss, nats per datum")
    x, chosen = _sparsities(result), len(result.rounds)
    own, held, error = (
        np.array([0.0, *values]) for values in _of(result, "loss", "held_out_rise", "held_out_error")
    )
    own[1:] -= result.loss_before
    axes.axhline(0, color=MUTED, linewidth=0.8)
    known = np.isfinite(held) & np.isfinite(error)
    low, high = (held - error)[known], (held + error)[known]
    axes.fill_between(x[known], low, high, color=BLUE, alpha=0.15, linewidth=0)
    _rounds(axes, x, own, chosen, ORANGE)
    _rounds(axes, x, held, chosen, BLUE)
    if math.isfinite(allowed):
        axes.axhline(allowed, color=BLUE, linewidth=0.9, dashes=(4, 3))
    label_ends(axes, [("calibration", x, own, ORANGE), ("held out", x, held, BLUE)])
    _mark_stop(axes, result)


def figure_predictions(axes: Axes, result: PruneResult, allowed: float) -> None:
    """Draw the predicted and the observed change of the evidence of each round."""
    _label_shares(axes, result, "Evidence for each round, in nats")
    x = _sparsities(result)[1:]
    predicted, observed = _of(result, "predicted_delta_f", "observed_delta_f")
    spread_over_decades(axes, predicted, observed)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    both = np.isfinite(predicted) & np.isfinite(observed)
    axes.vlines(x[both], observed[both], predicted[both], color=GRID, linewidth=1.2)
    axes.plot(x, predicted, "_", color=ORANGE, markersize=9, markeredgewidth=2)
    _rounds(axes, x, observed, len(result.rounds) - 1, BLUE, line=False)
    label_ends(axes, [("predicted", x, predicted, ORANGE), ("observed", x, observed, BLUE)])


FIGURES = (
    ("evidence", figure_evidence, "Log evidence over the share of weights that is out"),
    (
        "losses",
        figure_losses,
        "Rise of the loss on calibration and held-out data over the share of weights out",
    ),
    ("predictions", figure_predictions, "Predicted and observed change of the evidence by round"),
)
