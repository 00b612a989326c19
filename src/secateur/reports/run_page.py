"""Render the report of a run: one self-contained HTML file for screens, phones and print.

It is made from the files of the run directory alone, so it can be made again at any time.
"""

from html import escape
from importlib.resources import files
from pathlib import Path

from secateur.reports import run_sections, wording
from secateur.reports.bench_section import measured
from secateur.reports.record import Record, read
from secateur.runs import write_whole

__all__ = ["render", "write"]


def write(run_dir: Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    The file appears whole or not at all; an older report stays until the new one is complete.

    Args:
        run_dir: What `--out` of a finished fit names.

    Raises:
        ArtifactError: If a file of the run is missing or damaged, or the report cannot be written.
    """
    target = Path(run_dir) / "report.html"
    write_whole(target, render(read(run_dir)).encode())
    return target


def render(record: Record) -> str:
    """Return the report as HTML."""
    title = f"{wording.network_name(record)} on {wording.data_name(record)}"
    css = files("secateur.reports").joinpath("report.css").read_text(encoding="utf-8")
    parts = (
        run_sections.header(record),
        run_sections.results(record),
        run_sections.epochs(record),
        run_sections.layers(record),
        measured(record),
        run_sections.first_layer(record),
        run_sections.reliability(record),
        run_sections.reductions(record),
        run_sections.configuration(record),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}: Secateur</title>\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )
