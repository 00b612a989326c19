"""Write the results of a comparison: a CSV file, Markdown tables, figures, and one HTML page."""

from collections.abc import Callable, Sequence
from pathlib import Path

from secateur.errors import ArtifactError, SecateurError
from secateur.reports import calibration_figures
from secateur.reports import comparison_figures as scores
from secateur.reports import comparison_weights as weights
from secateur.reports.comparison_cost import cost
from secateur.reports.comparison_markdown import markdown
from secateur.reports.comparison_page import Chapter, render
from secateur.reports.comparison_runs import Group, RunTable, collect, is_comparison
from secateur.reports.comparison_table import Detections, csv_text
from secateur.reports.figure_grid import FigureGrid, combined_figure
from secateur.reports.out_of_distribution import Detection, ImagePairs, measure, read_measured
from secateur.reports.style import FORMATS, file_of
from secateur.runs import write_whole
from secateur.training.device import resolve_device

__all__ = ["is_comparison", "write"]


def write(
    out: Path,
    *,
    data_dir: Path | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write tables, figures and the page of a comparison; return the page's path.

    `comparison.csv`, `comparison.md`, `comparison.html` and the files in `figures` are replaced one by one,
    each whole or not at all. Runs that are unfinished or damaged are listed on the page with the reason.

    Args:
        out: Directory with the runs in `runs`.
        data_dir: Where to look for data sets first, for the detection of out-of-distribution images.
        device: Where to measure that: "auto", "cpu", "cuda", ...
        say: Called with a line before each step that takes a while.

    Raises:
        ArtifactError: If there is no finished run, or a file cannot be written.
    """
    out = Path(out)
    resolve_device(device)  # refuse a wrong name before anything else
    comparison = collect(out)
    detections = _detect(comparison, ImagePairs(data_dir), device, say)
    write_whole(out / "comparison.csv", csv_text(comparison, detections).encode())
    write_whole(out / "comparison.md", markdown(comparison, detections).encode())
    figures = out / "figures"
    try:
        figures.mkdir(exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{figures}: expected a folder to write figures into, got: {error}") from error
    chapters = []
    for group in comparison.groups:
        say(f"drawing {group.name}")
        chapter, grids = _chapter(group, detections)
        _write_figures(figures, grids)
        chapters.append(chapter)
    page = out / "comparison.html"
    write_whole(page, render(comparison, chapters, detections).encode())
    return page


def _detect(comparison: RunTable, pairs: ImagePairs, device: str, say: Callable[[str], None]) -> Detections:
    found: dict[Path, Detection | str] = {}
    for group in comparison.groups:
        for run in group.runs:
            directory = run.record.directory
            known = read_measured(directory)
            if known is not None:
                found[directory] = known
                continue
            say(f"measuring out-of-distribution detection of {directory.name}")
            try:
                found[directory] = measure(directory, pairs, device=device)
            except SecateurError as error:
                found[directory] = str(error).replace(f"{directory}/", "").replace(str(directory), "this run")
    return found


def _chapter(group: Group, detections: Detections) -> tuple[Chapter, list[FigureGrid]]:
    """Return a chapter of the page, and the figures to write as files."""
    drawn = weights.pictures(group)
    first_layers = weights.first_layers(group, drawn)
    before = [scores.over_epochs(group), scores.pareto(group), weights.sizes(group)]
    after = [
        calibration_figures.reliability(group),
        calibration_figures.detection(group, detections),
        cost(group),
    ]
    chapter = Chapter(
        group=group,
        before=tuple(grid for grid in before if grid is not None),
        first_layers=first_layers,
        pictures=tuple(drawn),
        after=tuple(grid for grid in after if grid is not None),
    )
    return chapter, [p for p in (*chapter.before, first_layers, *chapter.after) if p is not None]


def _write_figures(folder: Path, grids: Sequence[FigureGrid]) -> None:
    for grid in grids:
        figure = combined_figure(grid)
        for ending in FORMATS:
            path = folder / f"{grid.name}.{ending}"
            write_whole(path, file_of(figure, ending, name=grid.name))
