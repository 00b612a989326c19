"""What the figures of a comparison draw, and how they meet failed runs and odd data."""

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from secateur.reports import calibration_figures as calibration_figures
from secateur.reports import comparison_figures, comparison_scale, comparison_weights
from secateur.reports.comparison_cost import dots
from secateur.reports.comparison_runs import collect
from secateur.reports.figure_grid import FigureGrid, Geometry, Panel, combined_figure, panel_figure
from secateur.reports.method_style import FAMILIES, in_order, method_style
from secateur.reports.style import CSS_VARIABLES, FORMATS, file_of, svg
from secateur.runs.records import ReliabilityBins
from support.synthetic_comparison import DETECTION, make_run

KNOWN = (
    "flat-map", "flat-ff", "tiered-ff", "horseshoe-ff", "bmr-spike-and-slab", "bmr-horseshoe", "calibrated",
    "ivon", "magnitude", "signal-to-noise", "obd",
)  # fmt: skip
GEOMETRY = Geometry(width=2.0, height=1.5, left=0.4, right=0.1)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """Two methods, one of them with two seeds."""
    out = tmp_path_factory.mktemp("comparison")
    small = {"conv1": (4, 1, 3, 3), "dense": (6, 20), "output": (10, 6)}
    for method, seed in (("flat-map", 0), ("calibrated", 0), ("calibrated", 1)):
        make_run(out, method=method, seed=seed, shapes=small)
    return collect(out).groups[0]


def axes_of(grid, name):
    panel = next(panel for panel in grid.panels if panel.name == name)
    return panel_figure(panel, grid.geometry).axes[0]


def test_every_method_is_told_apart_without_colour_and_on_a_page():
    styles = [method_style(name) for name in KNOWN]
    assert [style.family for style in styles] == ["published"] * 6 + ["ours"] * 2 + ["baselines"] * 3
    assert len({style.marker for style in styles}) == len({style.colour for style in styles}) == len(KNOWN)
    assert all(style.colour in CSS_VARIABLES for style in styles)
    assert {bool(style.dashes) for style in styles if style.family != "baselines"} == {False}
    assert all(style.dashes and style.stroked for style in styles if style.family == "baselines")


def test_lightness_tells_members_of_a_hue_apart():
    def lightness(name):  # relative luminance, WCAG 2
        channels = [int(method_style(name).colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    for members in (KNOWN[1:4], KNOWN[4:6], KNOWN[6:8], KNOWN[8:]):
        ordered = sorted(map(lightness, members))
        assert all((b + 0.05) / (a + 0.05) > 1.4 for a, b in pairwise(ordered))


def test_unknown_methods_get_styles_of_their_own():
    names = [f"new-{number}" for number in range(14)]
    styles = [method_style(name, names) for name in names]
    assert {style.family for style in styles} == {FAMILIES[-1]}
    assert len({(style.colour, style.marker, style.dashes) for style in styles}) == len(names)
    assert in_order(["new-0", "ivon", "flat-ff"]) == ("flat-ff", "ivon", "new-0")


def test_every_colour_of_a_page_has_a_value_for_light_dark_and_paper():
    folder = Path(comparison_figures.__file__).parent
    css = (folder / "report.css").read_text() + (folder / "comparison.css").read_text()
    for variable in CSS_VARIABLES.values():
        assert len(re.findall(rf"{variable}: #", css)) >= 3, variable


def test_a_failed_method_does_not_flatten_the_scale():
    low, high = comparison_scale.window([[0.5, 0.30], [0.6, 0.33], [0.6, 0.35], [2.3, 2.3]], "low")
    assert low < 0.30
    assert 0.35 < high < 0.5
    low, high = comparison_scale.window([[0.5, 0.90], [0.4, 0.89], [0.3, 0.87], [0.1, 0.1]], "high")
    assert 0.8 < low < 0.87
    assert high > 0.90


@pytest.mark.parametrize(
    "lines", [[], [[]], [[math.nan]], [[0.5]], [[0.5], [0.5]], [[0.0, 0.0]], [[0.2, math.nan, 0.1]]]
)
@pytest.mark.parametrize("better", ["high", "low"])
def test_a_scale_of_little_or_odd_data_is_one(lines, better):
    low, high = comparison_scale.window(lines, better)
    assert math.isfinite(low)
    assert low < high
    assert all(low < value < high for line in lines for value in line[-1:] if math.isfinite(value))


def test_what_a_scale_leaves_out_is_written_at_its_edge():
    axes = Figure().add_subplot()
    axes.set_ylim(0.2, 0.4)
    comparison_scale.note_outside(axes, [("obd", 2.3), ("fine", 0.3), ("low", 0.1), ("lost", math.nan)])
    assert sorted(text.get_text() for text in axes.texts) == ["↑ obd 2.3", "↓ low 0.1"]


def test_the_axis_of_sparsity_is_labelled_by_what_is_gone():
    axes = Figure().add_subplot()
    comparison_scale.kept_axis(axes, 0.99)
    ticks = axes.get_xticks()
    labels = [axes.xaxis.get_major_formatter()(tick, 0) for tick in ticks]
    assert labels == ["0", "50", "80", "90", "95", "98", "99"]
    assert [round(comparison_scale.kept_position(float(t) / 100), 6) for t in labels] == ticks.round(
        6
    ).tolist()
    assert comparison_scale.kept_position(1.0) == 6.0


def test_lines_are_means_over_seeds_with_a_band_of_one_standard_error(group):
    axes = axes_of(comparison_figures.over_epochs(group), "accuracy")
    first, second = ([row.accuracy for row in run.record.epochs] for run in group.variants[1].runs)
    by_colour = {to_hex(line.get_color()): line for line in axes.lines}
    mean = by_colour[method_style("calibrated").colour].get_ydata()
    assert mean == pytest.approx((np.array(first) + second) / 2)
    (band,) = axes.collections  # flat-map has one seed and none
    half = np.abs(np.array(first) - second) / 2
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx((mean + half).max())
    assert corners[:, 1].min() == pytest.approx((mean - half).min())


def test_every_run_is_a_point_of_the_pareto_figure(group):
    axes = axes_of(comparison_figures.pareto(group), "negative_log_likelihood")
    drawn = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines[1:])
    expected = sorted(
        (comparison_scale.kept_position(run.record.sparsity), run.record.averaged.negative_log_likelihood)
        for run in group.runs
    )
    assert np.array(drawn) == pytest.approx(np.array(expected))


def test_removed_weights_are_the_height_where_a_line_begins(group):
    grid = comparison_weights.sizes(group)
    assert [panel.name for panel in grid.panels] == ["conv1-weight", "dense-weight", "output-weight"]
    axes = axes_of(grid, "dense-weight")
    for line, variant in zip(axes.lines, group.variants, strict=True):
        layer = next(row for row in variant.runs[0].record.layers if row.name == "dense.weight")
        share = line.get_ydata()
        assert share[0] == pytest.approx(1 - layer.kept)
        assert share[-1] == 1
        assert (np.diff(share) >= 0).all()
    assert axes.xaxis.get_major_formatter()(axes.get_xticks()[0], 0) == "0"


def test_sizes_have_a_few_round_ticks_however_narrow_their_range():
    assert comparison_weights._ticks(0.001, 1.2) == pytest.approx([0.01, 0.1, 1])
    assert comparison_weights._ticks(1e-6, 1.2) == pytest.approx([1e-4, 1e-2, 1])
    assert comparison_weights._ticks(0.15, 0.8) == pytest.approx([0.2, 0.5])
    assert [comparison_weights._size_label(x) for x in (0.2, 1.0, 1e-4)] == ["0.2", "1", "$10^{-4}$"]


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [0.25], [1e-30, 1.0]])
def test_distributions_of_few_or_extreme_weights_are_drawn(values):
    own = comparison_weights._sizes(np.array([0.0, *values], dtype=np.float32))
    low, high = comparison_weights._range([own.ordered])
    assert 0 < low < high


def test_seeds_are_pooled_bin_by_bin():
    one = ReliabilityBins((0.5, 0.9), (0.4, 1.0), (10, 30))
    two = ReliabilityBins((0.7, 0.8), (0.6, 0.7), (30, 10))
    pool_bins = calibration_figures.pool_bins([one, two])
    assert pool_bins.confidence == pytest.approx((0.65, 0.875))
    assert pool_bins.accuracy == pytest.approx((0.55, 0.925))
    assert pool_bins.count == (40, 40)
    assert calibration_figures.pool_bins([one, ReliabilityBins((), (), ())]) == one


def test_the_calibration_error_is_written_in(group):
    grid = calibration_figures.reliability(group)
    values = [run.record.averaged.expected_calibration_error for run in group.variants[1].runs]
    texts = [text.get_text() for text in axes_of(grid, "1").texts]
    assert f"ECE {np.mean(values):.4f} ± 0.0000" in texts  # synthetic runs share it


def test_histograms_show_both_kinds_of_images(group):
    detections = {run.record.directory: DETECTION for run in group.runs}
    grid = calibration_figures.detection(group, detections)
    assert [panel.name for panel in grid.panels] == ["auroc", "entropy-flat-map", "entropy-calibrated"]
    axes = axes_of(grid, "entropy-calibrated")
    inside, outside = (patch.get_data().values for patch in axes.patches)
    assert inside == pytest.approx(np.array(DETECTION.inside) / 2000)
    assert outside == pytest.approx(np.array(DETECTION.outside) / 1797)
    assert calibration_figures.detection(group, {}) is None


def test_a_grid_puts_panels_in_rows_under_a_legend_that_does_not_overlap(group):
    panels = tuple(Panel(str(i), "", lambda axes: axes.plot([0, 1])) for i in range(3))
    grid = FigureGrid(
        name="n", title="t", caption="c", panels=panels, geometry=GEOMETRY, columns=2, legend=group.variants
    )
    figure = combined_figure(grid)
    assert figure.get_size_inches()[0] == pytest.approx(4.0)
    lefts = [axes.get_position().x0 for axes in figure.axes]
    assert lefts[0] == lefts[2] < lefts[1]
    assert figure.axes[0].get_position().y0 > figure.axes[2].get_position().y1
    words = {text.get_text(): text.get_position()[1] for text in figure.texts}
    assert {"published", "flat-map", "ours", "calibrated"} <= words.keys()
    assert words["published"] == words["flat-map"] > words["ours"] > figure.axes[0].get_position().y1


def test_files_are_the_same_for_the_same_figure():
    def figure():
        return panel_figure(Panel("p", "", lambda axes: axes.plot([0, 1, 0], marker="o")), GEOMETRY)

    for ending in FORMATS:
        assert file_of(figure(), ending, name="x") == file_of(figure(), ending, name="x")
    assert "var(--" not in file_of(figure(), "svg", name="x").decode()


def test_on_a_page_the_colours_are_variables():
    style = method_style("tiered-ff")
    panel = Panel("p", "", lambda axes: axes.plot([0, 1], **style.line()))
    assert f"var(--green, {style.colour})" in svg(panel_figure(panel, GEOMETRY), name="p", description="d")


@pytest.mark.parametrize("ratio", [1.02, 1.14, 1.9, 2.5, 40.0])
def test_a_logarithmic_scale_has_round_ticks_however_narrow_it_is(group, ratio):
    axes = Figure().subplots()
    dots(group, {"flat-map": [1.0], "calibrated": [ratio]}, "Time", axes, logarithmic=True)
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 2 <= len(ticks) <= 10
    assert all(len(f"{tick:g}") <= 4 for tick in ticks)
    assert any(text.get_text() == f"{ratio:.2f}" for text in axes.texts)
