"""HTML section of a report with file sizes, memory and latencies of each form of the network."""

from html import escape

from secateur.reports.record import Record
from secateur.runs import formatting
from secateur.runs.records import Bench, BenchVariant

__all__ = ["measured"]

_MEANING = {
    "dense": "every weight stored and multiplied",
    "masked": "zeros stored and multiplied",
    "compact": "dead units removed",
}
_MEANING_OF_PART = {
    "sparse": "sparse kernels where they were faster",
    "onnxruntime": "in another engine",
}


def measured(record: Record) -> str:
    """Return the section as HTML; empty where nothing was measured."""
    bench = record.bench
    if bench is None:
        return ""
    head = "".join(
        f'<th class="num{wide}" scope="col">{escape(name)}</th>'
        for name, wide in [
            ("on disk", ""),
            ("parameters", " wide"),
            ("multiply-adds", " wide"),
            ("memory", " wide"),
            *[(f"batch {batch}, ms", "") for batch in bench.batches],
            ("accuracy", ""),
        ]
    )
    rows = "".join(_row(variant, bench) for variant in bench.variants)
    threads = "1 thread" if bench.machine.num_threads == 1 else f"{bench.machine.num_threads} threads"
    differences = [row.largest_difference for row in bench.variants if not bench.is_other_network(row)]
    worst = max(differences, default=0.0)
    compared = (
        f" Dense is another run, which kept its weights: {escape(bench.machine.dense_run)}."
        if bench.machine.dense_run
        else ""
    )
    remarks = "".join(f" {escape(remark)}." for remark in bench.remarks)
    return (
        "<section>\n<h2>Smaller and faster for real</h2>\n"
        "<p>The same network in the forms it can take, each beside how many times smaller or faster it is "
        f"than the dense one.{compared}</p>\n"
        f'<table class="scores">\n<thead><tr><th></th>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>'
        f'\n<p class="note">Times are medians (quartiles below) of calls taken in turn, with '
        f"torch {escape(bench.machine.torch)} on {escape(bench.machine.machine)}, {threads}. "
        "Memory is what weights and intermediate results need at once, at the largest batch. "
        "Outputs differ from the masked network's "
        f"by {worst:.0e} of the largest at most. The kept weights "
        f"need {formatting.num_bytes(bench.entropy_bound)} at least, if which ones they are was "
        f"random.{remarks}</p>\n</section>\n"
    )


def _row(row: BenchVariant, bench: Bench) -> str:
    first = bench.variants[0]
    parts = (text for part, text in _MEANING_OF_PART.items() if part in row.name)
    meaning = _MEANING.get(row.name, next(parts, ""))
    cells = [
        f'<td class="num">{formatting.num_bytes(row.file_bytes)}'
        f"<small> {formatting.times(first.file_bytes, row.file_bytes)}</small></td>",
        f'<td class="num wide">{formatting.number(row.num_parameters, 0)}</td>',
        f'<td class="num wide">{formatting.number(row.num_macs, 0)}</td>',
        f'<td class="num wide">{formatting.num_bytes(row.peak_memory)}</td>',
    ]
    for own, reference in zip(row.timings, first.timings, strict=True):
        cells.append(
            f'<td class="num">{1e3 * own.median:.3f}'
            f"<small> {formatting.times(reference.median, own.median)}<br>"
            f"{1e3 * own.lower:.3f}{formatting.DASH}{1e3 * own.upper:.3f}</small></td>"
        )
    cells.append(f'<td class="num">{formatting.number(row.accuracy, 4)}</td>')
    return (
        f'<tr><th scope="row">{escape(row.name)}<small>{escape(meaning)}</small></th>{"".join(cells)}</tr>\n'
    )
