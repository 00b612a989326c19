"""Draw the README's picture from a finished run: python scripts/readme_figure.py RUN docs/first-run.png."""

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from secateur.reports.record import Record, read

REMOVED, KEPT, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito's palette


def draw(record: Record) -> Figure:
    """Return the figure: what was removed, what it did to accuracy, and how honest the result is."""
    epochs = record.history["epoch"].tolist()
    figure = Figure(figsize=(11, 3.1), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    removed, accuracy, honest = figure.subplots(1, 3)

    shares = (100 * record.history["sparsity"]).tolist()
    removed.plot(epochs, shares, color=REMOVED, lw=2)
    removed.set(title="weights removed, %", xlabel="epoch", ylim=(0, 102))
    removed.annotate(
        f"{shares[-1]:.1f}",
        (epochs[-1], shares[-1]),
        (0, -14),
        textcoords="offset points",
        ha="right",
        color=REMOVED,
    )

    values = (100 * record.history["accuracy"]).tolist()
    accuracy.plot(epochs, values, color=KEPT, lw=2)
    accuracy.set(title="test accuracy, %", xlabel="epoch", ylim=(min(values[1:]) - 1, max(values) + 1.5))
    accuracy.annotate(
        f"{values[-1]:.1f}",
        (epochs[-1], values[-1]),
        (0, 7),
        textcoords="offset points",
        ha="right",
        color=KEPT,
    )

    bins = record.reliability
    honest.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    honest.plot(bins["confidence"], bins["accuracy"], "o", color=REMOVED, ms=5)
    honest.set(
        title="how often it is right against how sure it is",
        xlabel="confidence",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
    )
    ece = record.averaged.expected_calibration_error
    honest.annotate(f"calibration error {ece:.3f}", (0.96, 0.08), ha="right", color=GREY)
    for axes in (removed, accuracy, honest):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    return figure


def main() -> None:
    """Read the run named first, write the PNG named second."""
    run, png = map(Path, sys.argv[1:])
    draw(read(run)).savefig(png)


if __name__ == "__main__":
    main()
