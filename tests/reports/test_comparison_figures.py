"""What the figures of a comparison draw."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from secateur.reports import comparison_figures, style
from secateur.reports.comparison_figures import kept_scale, pool_bins
from secateur.reports.record import read
from secateur.reports.tables import collect
from support.synthetic_comparison import DETECTION, make_run


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """Two methods, one of them with two seeds."""
    out = tmp_path_factory.mktemp("comparison")
    small = {"conv1": (4, 1, 3, 3), "dense": (6, 20), "output": (10, 6)}
    for method, seed in (("flat-map", 0), ("calibrated", 0), ("calibrated", 1)):
        make_run(out, method=method, seed=seed, shapes=small)
    return collect(out, lambda record: DETECTION).groups[0]


def axes_of(grid, name):
    panel = next(panel for panel in grid.panels if panel.name == name)
    with style.drawing():
        axes = Figure(figsize=grid.size).add_subplot()
        panel.draw(axes)
    return axes


def test_the_axis_of_sparsity_is_labelled_by_what_is_gone():
    axes = Figure().add_subplot()
    kept_scale(axes, 0.99, "x")
    ticks = axes.get_xticks()
    assert [axes.xaxis.get_major_formatter()(tick, 0) for tick in ticks] == [
        "0", "50", "80", "90", "95", "98", "99",
    ]  # fmt: skip
    places = axes.transData.transform([(tick, 0.5) for tick in (0.0, 0.9, 0.99)])[:, 0]
    assert places[2] - places[1] == pytest.approx(places[1] - places[0])
    assert np.isfinite(axes.transData.transform((1.0, 0.5))).all()


def test_every_figure_has_something_to_show(group):
    names = [make(group).name for make in comparison_figures.MAKERS if make(group).panels]
    assert names == [
        "epochs",
        "pareto",
        "weights",
        "first-layer",
        "reliability",
        "out-of-distribution",
        "cost",
    ]


def test_lines_are_means_over_seeds_with_a_band_of_one_standard_error(group):
    axes = axes_of(comparison_figures.over_epochs(group), "accuracy")
    first, second = (record.history["accuracy"].to_numpy() for record in group.of("calibrated"))
    by_colour = {to_hex(line.get_color()): line for line in axes.lines}
    mean = by_colour[style.line_style("calibrated")["color"]].get_ydata()
    assert mean == pytest.approx((first + second) / 2)
    (band,) = axes.collections  # flat-map has one seed and none
    half = np.abs(first - second) / 2
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx((mean + half).max())
    assert corners[:, 1].min() == pytest.approx((mean - half).min())


def test_every_run_is_a_point_of_the_pareto_figure(group):
    axes = axes_of(comparison_figures.pareto(group), "negative_log_likelihood")
    points = [line for line in axes.lines if line.get_gid() != "cut"][1:]
    drawn = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in points)
    expected = sorted(group.runs[["sparsity", "negative_log_likelihood"]].itertuples(index=False, name=None))
    assert np.array(drawn) == pytest.approx(np.array(expected))


def test_the_frontier_holds_the_runs_that_no_other_beats(tmp_path):
    import json

    for method, sparsity, accuracy in (
        ("flat-map", 0.0, 0.9), ("flat-ff", 0.5, 0.91), ("obd", 0.9, 0.88), ("ivon", 0.8, 0.87),
    ):  # fmt: skip
        run = make_run(tmp_path, method=method, shapes={"dense": (2, 2)}, num_epochs=1)
        metrics = json.loads((run / "metrics.json").read_text()) | {
            "sparsity": sparsity,
            "accuracy": accuracy,
        }
        (run / "metrics.json").write_text(json.dumps(metrics))
    axes = axes_of(comparison_figures.pareto(collect(tmp_path).groups[0]), "accuracy")
    frontier = next(line for line in axes.lines if line.get_gid() != "cut")
    assert list(zip(frontier.get_xdata(), frontier.get_ydata(), strict=True)) == [(0.9, 0.88), (0.5, 0.91)]


def test_seeds_are_pooled_bin_by_bin(tmp_path):
    import json

    records = []
    for place, bins in enumerate((
        {"confidence": [0.5, 0.9], "accuracy": [0.4, 1.0], "count": [10, 30]},
        {"confidence": [0.7, 0.8], "accuracy": [0.6, 0.7], "count": [30, 10]},
        {"confidence": [0.1], "accuracy": [0.1], "count": [5]},
    )):  # fmt: skip
        run = make_run(tmp_path, seed=place, shapes={"dense": (2, 2)}, num_epochs=1)
        metrics = json.loads((run / "metrics.json").read_text()) | {"reliability": bins}
        (run / "metrics.json").write_text(json.dumps(metrics))
        records.append(read(run))
    pooled = pool_bins(records)
    assert pooled["confidence"].tolist() == pytest.approx([0.65, 0.875])
    assert pooled["accuracy"].tolist() == pytest.approx([0.55, 0.925])
    assert pooled["count"].tolist() == [40, 40]


def test_the_calibration_error_is_written_in(group):
    mean = group.means.loc["calibrated", ("expected_calibration_error", "mean")]
    texts = [text.get_text() for text in axes_of(comparison_figures.reliability(group), "1").texts]
    assert f"ECE {mean:.4f} ± 0.0000" in texts  # synthetic runs share it


def test_histograms_show_both_kinds_of_images(group):
    grid = comparison_figures.detection(group)
    assert [panel.name for panel in grid.panels] == ["auroc", "entropy-flat-map", "entropy-calibrated"]
    axes = axes_of(grid, "entropy-calibrated")
    inside, outside = (patch.get_data().values for patch in axes.patches)
    assert inside == pytest.approx(np.array(DETECTION.inside) / 2000)
    assert outside == pytest.approx(np.array(DETECTION.outside) / 1797)
