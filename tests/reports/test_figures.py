"""What the figures of one network say: the data they draw, and how they meet odd data."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure
from pandas import DataFrame

from secateur.reports import figures, style


def history(values, reduced=()):
    columns = ("accuracy", "negative_log_likelihood", "expected_calibration_error", "sparsity")
    table = DataFrame({"epoch": range(1, len(values) + 1)} | dict.fromkeys(columns, values), dtype=float)
    return table.assign(num_removed=[float(epoch in reduced) for epoch in table["epoch"]])


def bins(confidence, accuracy, count):
    return DataFrame({"confidence": confidence, "accuracy": accuracy, "count": count}, dtype=float)


def reductions(*rows):
    columns = ["epoch", "num_removed", "predicted_delta_f", "observed_delta_f"]
    return DataFrame(rows, columns=columns, dtype=float)


def drawn(draw, *tables):
    """The axes after drawing."""
    with style.drawing():
        axes = Figure(figsize=(3.5, 2.5)).add_subplot()
        draw(axes, *tables)
    return axes


def texts(axes):
    return [text.get_text() for text in axes.texts]


def cuts(axes):
    return [artist.get_ydata()[0] for artist in axes.get_children() if artist.get_gid() == "cut"]


def lines(axes):
    return [line for line in axes.lines if line.get_gid() != "cut"]


def markup(axes) -> ET.Element:
    """The figure as it goes on a page; parsing it proves that it is well formed."""
    return ET.fromstring(style.svg(axes.figure, name="test", description="a <test> & more"))


def curve(values, metric="accuracy", reduced=()):
    return drawn(figures.figure_curve, history(values, reduced), metric, "Title")


def test_a_curve_marks_reductions_and_says_where_it_ends():
    axes = curve([0.5, 0.7, 0.8, 0.85], reduced={2, 3})
    line, dots, _ = lines(axes)
    assert line.get_ydata().tolist() == [0.5, 0.7, 0.8, 0.85]
    assert dots.get_xdata().tolist() == [2, 3]
    assert "0.850" in texts(axes)


def test_a_wild_start_does_not_flatten_the_curve_but_is_told():
    axes = curve([9.0, *(0.3 + 0.001 * (i % 7) for i in range(29))], "negative_log_likelihood")
    low, high = axes.get_ylim()
    assert low < 0.3
    assert high < 0.32
    assert "↑ epoch 1: 9" in texts(axes)
    assert cuts(axes) == [0, 1]


def test_a_scale_that_begins_at_zero_is_not_marked_as_cut():
    assert cuts(curve([0.0, 0.5, 1.0])) == []
    assert cuts(curve([0.9, 0.91, 0.92])) == [0]
    axes = curve([0.0, 0.95], "sparsity")
    assert axes.get_ylim() == (0, 1)
    assert cuts(axes) == []
    assert "95.0 %" in texts(axes)


def assert_limits_hold(axes, x, y):
    """Assert that both scales are finite and hold every finite point."""
    for limits, values in ((axes.get_xlim(), x), (axes.get_ylim(), y)):
        assert np.isfinite(limits).all()
        finite = [value for value in values if math.isfinite(value)]
        assert all(limits[0] <= value <= limits[1] for value in finite)


@pytest.mark.parametrize(
    ("values", "end"),
    [
        ([], None),
        ([0.5], 0.5),
        ([0.5, 0.5, 0.5], 0.5),
        ([math.nan] * 3, None),
        ([0.5, math.nan, 0.7], 0.7),
        ([0.5, 0.7, math.nan], 0.7),
        ([0.0, 0.0], 0.0),
    ],
)
@pytest.mark.parametrize("metric", ["accuracy", "sparsity"])
def test_curves_of_little_or_odd_data_are_drawn(values, end, metric):
    axes = curve(values, metric)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), values)
    assert_limits_hold(axes, [], values)
    labels = [] if end is None else [f"{100 * end:.1f} %" if metric == "sparsity" else f"{end:.3f}"]
    assert texts(axes) == labels
    assert "nan" not in "".join(markup(axes).itertext())


def test_reliability_shows_the_bins_that_hold_something():
    axes = drawn(figures.figure_reliability, bins((0.6, 0.8, 0.95), (0.5, 0.82, 0.97), (500, 0, 400)))
    _, points = lines(axes)
    assert points.get_xdata().tolist() == [0.6, 0.95]
    assert points.get_ydata().tolist() == [0.5, 0.97]


def test_reliability_intervals_are_wilsons():
    # Newcombe 1998, table I: 81 of 263 has the Wilson interval .2553 to .3662.
    axes = drawn(figures.figure_reliability, bins((0.3,), (81 / 263,), (263,)))
    (segment,) = axes.collections[0].get_segments()
    assert segment[:, 1] == pytest.approx([0.2553, 0.3662], abs=1e-4)


@pytest.mark.parametrize(
    ("table", "shown"),
    [
        (bins((), (), ()), []),
        (bins((1.0,), (1.0,), (10,)), [(1.0, 1.0)]),
        (bins((0.1,), (0.0,), (1,)), [(0.1, 0.0)]),
        (bins((math.nan,), (math.nan,), (3,)), []),
        (bins((0.7, math.nan), (0.6, 0.5), (4, 3)), [(0.7, 0.6)]),
    ],
)
def test_reliability_of_odd_data_is_drawn(table, shown):
    axes = drawn(figures.figure_reliability, table)
    diagonal, points = lines(axes)
    assert list(zip(points.get_xdata(), points.get_ydata(), strict=True)) == shown
    assert diagonal.get_xdata()[0] < diagonal.get_xdata()[1] == 1
    intervals = axes.collections[0].get_segments()
    assert len(intervals) == len(shown)
    assert_limits_hold(axes, [x for x, _ in shown], [y for _, y in shown])
    assert all(0 <= y <= 1 for segment in intervals for _, y in segment)
    assert "nan" not in "".join(markup(axes).itertext())


def test_reductions_show_both_changes():
    axes = drawn(figures.figure_reductions, reductions((5, 100, 300.0, 40.0), (6, 80, 200.0, -20.0)))
    predicted, observed = axes.lines[1:]
    assert predicted.get_ydata().tolist() == [300, 200]
    assert observed.get_ydata().tolist() == [40, -20]
    assert {"predicted", "observed"} <= set(texts(axes))
    assert axes.get_yscale() == "linear"


def test_reductions_that_differ_by_decades_get_a_scale_that_shows_all():
    rows = [(e, 9, 10.0**p, -(10.0 ** (p - 3))) for e, p in enumerate((6, 3, 3, 2, 2), 1)]
    axes = drawn(figures.figure_reductions, reductions(*rows))
    assert axes.get_yscale() == "symlog"
    short = axes.yaxis.get_major_formatter()
    assert [short(value, 0) for value in (0.0, 12.5, -1200.0, 2e4, 3e6)] == [
        "0",
        "12.5",
        "-1.2k",
        "20k",
        "3M",
    ]
    markup(axes)


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ((1, 0, 0.0, 0.0), ["predicted", "observed"]),
        ((1, 3, math.nan, math.nan), []),
        ((1, 3, 5.0, math.nan), ["predicted"]),
    ],
)
def test_reductions_of_odd_data_are_drawn(row, names):
    axes = drawn(figures.figure_reductions, reductions(row))
    predicted, observed = axes.lines[1:]
    np.testing.assert_array_equal(predicted.get_ydata(), [row[2]])
    np.testing.assert_array_equal(observed.get_ydata(), [row[3]])
    assert_limits_hold(axes, [1], row[2:])
    assert texts(axes) == names
    assert "nan" not in "".join(markup(axes).itertext())


def test_names_of_series_do_not_touch():
    axes = drawn(figures.figure_reductions, reductions((1, 5, 100.0, 0.0), (2, 5, 0.5, 0.0)))
    shifts = [text.xyann[1] for text in axes.texts]
    assert abs(shifts[0] - shifts[1]) >= 10


def test_a_failed_method_does_not_flatten_the_scale():
    low, high = figures.window([[0.5, 0.30], [0.6, 0.33], [0.6, 0.35], [2.3, 2.3]], "low")
    assert low < 0.30
    assert 0.35 < high < 0.5
    low, high = figures.window([[0.5, 0.90], [0.4, 0.89], [0.3, 0.87], [0.1, 0.1]], "high")
    assert 0.8 < low < 0.87
    assert high > 0.90


@pytest.mark.parametrize(
    "values", [[], [[]], [[math.nan]], [[0.5]], [[0.5], [0.5]], [[0.0, 0.0]], [[0.2, math.nan, 0.1]]]
)
@pytest.mark.parametrize("better", ["high", "low"])
def test_a_scale_of_little_or_odd_data_is_one(values, better):
    low, high = figures.window(values, better)
    assert math.isfinite(low)
    assert low < high
    assert all(low < value < high for line in values for value in line[-1:] if math.isfinite(value))


def test_what_a_scale_leaves_out_is_written_at_its_edge():
    axes = Figure().add_subplot()
    axes.set_ylim(0.2, 0.4)
    figures.note_outside(axes, {"obd": 2.3, "fine": 0.3, "low": 0.1, "lost": math.nan})
    assert sorted(texts(axes)) == ["↑ obd 2.3", "↓ low 0.1"]
