"""The ending of a fit in the terminal: what came of it, layer by layer, and where to read on."""

from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from secateur.study import wording
from secateur.study.record import Record, read

__all__ = ["show"]

_SHORT = {
    "accuracy": "higher is better",
    "negative_log_likelihood": "lower is better",
    "expected_calibration_error": "0 is honest",
    "brier_score": "lower is better",
}


def show(run_dir: Path, console: Console) -> None:
    """Print the summary of a finished run.

    Args:
        run_dir: What `--out` of the fit names.
        console: Where to print; without a terminal there are no colours.

    Raises:
        ArtifactError: If a file of the run is missing or damaged.
    """
    record = read(run_dir)
    console.print()
    console.print(Text(wording.outcome(record), style="bold"), soft_wrap=True)
    console.print()
    console.print(Padding(_scores(record), (0, 0, 1, 2)))
    console.print(Padding(_layers(record, console), (0, 0, 1, 2)))
    report = record.directory / "report.html"
    wrote = Text(f"{wording.duration(record.seconds)} of training. ")
    wrote.append("Everything is in " if not report.is_file() else "Report: ")
    wrote.append(str(report if report.is_file() else record.directory), style="bold")
    console.print(wrote, soft_wrap=True)


def _scores(record: Record) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("on the test set", no_wrap=True)
    both = record.mean_network is not None
    table.add_column(f"mean of {record.num_samples} samples" if both else "", justify="right")
    if both:
        table.add_column("one pass", justify="right")
    table.add_column("", style="dim", no_wrap=True)
    for key, name, _ in wording.METRICS:
        if key in _SHORT:
            values = [wording.number(getattr(s, key), 4) for s in (record.averaged, record.mean_network) if s]
            table.add_row(name, *values, _SHORT[key])
    return table


def _layers(record: Record, console: Console) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("layer", overflow="fold")
    table.add_column("weights", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    width = max(10, min(30, console.width - 50))
    for layer in record.layers:
        if len(layer.shape) < 2:  # biases would double the table and say little; the report has them
            continue
        table.add_row(
            layer.name.removesuffix(".weight"),
            f"{layer.num_weights:,}",
            f"{layer.num_kept:,}",
            wording.percent(layer.kept),
            _bar(layer.kept, width) if layer.prunable else Text("never pruned", style="dim"),
        )
    return table


def _bar(share: float, width: int) -> Text:
    """Return a bar that also reads without colours; what is not nothing shows at least a sliver."""
    eighths = max(round(8 * width * share), int(share > 0))
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return Text.assemble((filled, "blue"), ("·" * (width - len(filled)), "dim"))
