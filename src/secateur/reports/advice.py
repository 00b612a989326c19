"""Words on a run that pages and terminal share: what the scores mean, warnings, the next command to type."""

import math
import shlex
from collections.abc import Mapping

from secateur import data as data_table
from secateur import networks
from secateur.factories import is_factory
from secateur.reports.record import Record
from secateur.runs import formatting

__all__ = ["FEW_EPOCHS", "METRICS", "at_chance", "command", "next_commands", "outcome", "remarks", "title"]

METRICS = {
    "accuracy": ("Accuracy", "share of test examples put in the right class; higher is better"),
    "negative_log_likelihood": (
        "Negative log-likelihood", "mean surprise at the right class, in nats; lower is better, 0 is perfect",
    ),
    "expected_calibration_error": (
        "Calibration error",
        "mean distance between confidence and share right (20 groups of equal size); 0 is honest",
    ),
    "brier_score": (
        "Brier score",
        "mean squared error of the probabilities, summed over classes; lower is better, 2 is the worst",
    ),
    "log_predictive_density": (
        "Log predictive density",
        "nats per example for all labels under one and the same network; higher is better",
    ),
    "root_mean_squared_error": (
        "Root mean squared error", "of the predicted means, in the unit of the targets; lower is better",
    ),
    "continuous_ranked_probability_score": (
        "CRPS",
        "continuous ranked probability score, in the unit of the targets: an absolute error that also judges "
        "the intervals; lower is better",
    ),
    "coverage_50": ("Inside 50 % intervals", "share of targets there; 0.5 is honest"),
    "coverage_90": ("Inside 90 % intervals", "share of targets there; 0.9 is honest"),
    "deviance": ("Deviance", "of counts from predicted rates, in nats; lower is better, 0 is perfect"),
}  # fmt: skip
"""Name of each score in words, and one line on what it says."""

FEW_EPOCHS = 10
_NEAR_CHANCE = 1.5  # times the accuracy of a guess


def title(record: Record) -> str:
    """Return network and data set of a run as their literature writes them."""
    return f"{networks.title(record.config['network'])} on {data_table.title(record.config['data'])}"


def outcome(record: Record) -> str:
    """Return in words how many weights went."""
    if record.num_kept < record.num_weights:
        return f"{formatting.percent(record.sparsity)} of {record.num_weights:,} weights removed"
    return f"all {record.num_weights:,} weights kept"


def command(record: Record) -> str | None:
    """Return the shell command that repeats the run, or None where the run came from Python."""
    given = record.config.get("command")
    if isinstance(given, list):
        return shlex.join(map(str, given))
    return str(given) if given else None


def at_chance(record: Record, accuracy: float) -> bool:
    """Return whether an accuracy is hardly above that of a guess; False where the classes are not known."""
    return bool(accuracy < _NEAR_CHANCE * record.chance)


def remarks(record: Record) -> list[str]:
    """Return warnings where the numbers of a run mislead.

    Args:
        record: The run.
    """
    found, length, dense = [], len(record.history), record.last_dense_epoch
    if at_chance(record, record.averaged.accuracy):
        found.append(
            f"The network is at chance: accuracy {formatting.number(record.averaged.accuracy)}, and a guess "
            f"has {formatting.number(record.chance)}. Its other scores say nothing: a network that knows "
            "nothing can be perfectly calibrated."
        )
    if 0 < length < FEW_EPOCHS:
        found.append(
            f"{length} epoch{'s are' if length > 1 else ' is'} few: scores still change from epoch to epoch, "
            "and the evidence has had few occasions to remove anything."
        )
    dead = [
        str(row.name).removesuffix(".weight")
        for row in record.layers.itertuples()
        if row.prunable and len(row.shape) > 1 and not row.num_kept
    ]
    if dead:
        found.append(
            f"All weights of {', '.join(dead)} are removed, so what comes before is not heard, unless "
            "another path leads past. If the scores suffered, prune less (--sparsity), or train for longer."
        )
    if record.evaluated_on == "train":
        found.append("The scores are those of training data, for want of a test set: they are too good.")
    if dense is not None and dense["epoch"] < 0.8 * length:
        found.append(
            f"The dense column is this network after epoch {dense['epoch']:.0f}, before the first removal; "
            f"the pruned one went on to epoch {length}. The two did not train equally long."
        )
    return found


def next_commands(record: Record) -> list[tuple[str, str]]:
    """Return what to do next with a run, each with the command to type.

    Args:
        record: The run.
    """
    config, here = record.config, str(record.directory)
    found = []
    own = ["--network", config["network"]] if is_factory(config["network"]) else []
    source = config.get("source")
    of_function = source.get("function") if isinstance(source, Mapping) else None
    of_data = ["--data", of_function] if isinstance(of_function, str) else []
    named = (
        config["network"] in networks.names() and data_table.registered_name(config["data"]) == config["data"]
    )
    repeat = ["secateur", "fit", config["network"], config["data"], "--seed", str(config.get("seed", 0))]
    epochs = config.get("epochs")
    pruned = record.num_kept < record.num_weights
    if record.bench is None:
        found.append(("Measure bytes and milliseconds", ["secateur", "bench", here, *own, *of_data]))
    if named and pruned and isinstance(epochs, int):
        dense = ["--method", "flat-map", "--epochs", str(epochs), "--out", f"{here}-dense"]
        found.append(("Train a dense baseline as long", [*repeat, *dense]))
        if record.bench is None or record.bench.dense_run is None:
            words = ["secateur", "bench", here, "--dense", f"{here}-dense"]
            found.append(("Then set the two side by side", words))
    elif named and not pruned and config["method"] != "flat-map":
        more = ["--method", config["method"], "--epochs", "50", "--out", f"{here}-longer"]
        found.append(("Train for longer, so that weights can go", [*repeat, *more]))
    found.append(("Take it elsewhere", ["secateur", "export", here, "--to", "onnx", *own]))
    return [(what, shlex.join(words)) for what, words in found]


def dense_scores(record: Record) -> tuple[str, dict[str, float]]:
    """Return where the dense baseline of a run is from, in words, and its scores; none where none is known.

    Args:
        record: A run that removed weights.
    """
    bench, last = record.bench, record.last_dense_epoch
    if bench is not None and bench.dense_run is not None:
        accuracy = float(bench.variants["accuracy"].iloc[0])
        if math.isfinite(accuracy):
            return f"dense: {bench.dense_run}", {"accuracy": accuracy}
    if last is None:
        return "", {}
    return f"dense, epoch {last['epoch']:.0f}", {str(key): float(last[key]) for key in last.index}
