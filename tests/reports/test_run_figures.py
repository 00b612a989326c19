"""What the figures say: the data they draw, and how they meet odd data."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from secateur.reports import filters, run_figures, style
from secateur.runs.records import Epoch, Reduction, ReliabilityBins


def epochs(values, reduced=()):
    return [Epoch(i, v, v, v, v, int(i in reduced)) for i, v in enumerate(values, 1)]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def markup(figure: Figure) -> ET.Element:
    """The figure as it goes on a page; parsing it proves that it is well formed."""
    return ET.fromstring(style.svg(figure, name="test", description="a <test> & more"))


def test_a_curve_marks_reductions_and_says_where_it_ends():
    figure = run_figures.curve(epochs([0.5, 0.7, 0.8, 0.85], reduced={2, 3}), "accuracy", title="Accuracy")
    line, dots, _ = figure.axes[0].lines
    assert line.get_ydata().tolist() == [0.5, 0.7, 0.8, 0.85]
    assert dots.get_xdata().tolist() == [2, 3]
    assert "0.850" in texts(figure)


def test_a_wild_start_does_not_flatten_the_curve_but_is_told():
    settled = [0.3 + 0.001 * (i % 7) for i in range(29)]
    figure = run_figures.curve(epochs([9.0, *settled]), "negative_log_likelihood", title="NLL")
    low, high = figure.axes[0].get_ylim()
    assert low < 0.3
    assert high < 0.32
    assert "↑ 9.000 in epoch 1" in texts(figure)


def test_a_curve_in_percent_spans_all():
    figure = run_figures.curve(epochs([0.0, 0.95]), "sparsity", title="Removed", percent=True)
    assert figure.axes[0].get_ylim() == (0, 1)
    assert "95.0 %" in texts(figure)


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
@pytest.mark.parametrize("percent", [False, True])
def test_curves_of_little_or_odd_data_are_drawn(values, end, percent):
    figure = run_figures.curve(epochs(values), "accuracy", title="Accuracy", percent=percent)
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), values)
    assert_limits_hold(axes, [], values)
    labels = [] if end is None else [f"{100 * end:.1f} %" if percent else f"{end:.3f}"]
    assert texts(figure) == labels
    assert "nan" not in "".join(markup(figure).itertext())


def test_reliability_shows_the_bins_that_hold_something():
    figure = run_figures.reliability(ReliabilityBins((0.6, 0.8, 0.95), (0.5, 0.82, 0.97), (500, 0, 400)))
    _, points = figure.axes[0].lines
    assert points.get_xdata().tolist() == [0.6, 0.95]
    assert points.get_ydata().tolist() == [0.5, 0.97]


def test_reliability_intervals_are_wilsons():
    # Newcombe 1998, table I: 81 of 263 has the Wilson interval .2553 to .3662.
    figure = run_figures.reliability(ReliabilityBins((0.3,), (81 / 263,), (263,)))
    (segment,) = figure.axes[0].collections[0].get_segments()
    assert segment[:, 1] == pytest.approx([0.2553, 0.3662], abs=1e-4)


@pytest.mark.parametrize(
    ("bins", "drawn"),
    [
        (ReliabilityBins((), (), ()), []),
        (ReliabilityBins((1.0,), (1.0,), (10,)), [(1.0, 1.0)]),
        (ReliabilityBins((0.1,), (0.0,), (1,)), [(0.1, 0.0)]),
        (ReliabilityBins((math.nan,), (math.nan,), (3,)), []),
        (ReliabilityBins((0.7, math.nan), (0.6, 0.5), (4, 3)), [(0.7, 0.6)]),
    ],
)
def test_reliability_of_odd_data_is_drawn(bins, drawn):
    figure = run_figures.reliability(bins)
    (axes,) = figure.axes
    diagonal, points = axes.lines
    assert list(zip(points.get_xdata(), points.get_ydata(), strict=True)) == drawn
    assert diagonal.get_xdata()[0] < diagonal.get_xdata()[1] == 1
    intervals = axes.collections[0].get_segments()
    assert len(intervals) == len(drawn)
    assert_limits_hold(axes, [x for x, _ in drawn], [y for _, y in drawn])
    assert_limits_hold(axes, [], [y for segment in intervals for _, y in segment])
    assert all(0 <= y <= 1 for segment in intervals for _, y in segment)
    assert "nan" not in "".join(markup(figure).itertext())


def test_reductions_show_both_changes():
    rows = [Reduction(5, 100, 300.0, 40.0), Reduction(6, 80, 200.0, -20.0)]
    figure = run_figures.reductions(rows)
    predicted, observed = figure.axes[0].lines[1:]
    assert predicted.get_ydata().tolist() == [300, 200]
    assert observed.get_ydata().tolist() == [40, -20]
    assert {"predicted", "observed"} <= set(texts(figure))
    assert figure.axes[0].get_yscale() == "linear"


def test_reductions_that_differ_by_decades_get_a_scale_that_shows_all():
    rows = [Reduction(e, 9, 10.0**p, -(10.0 ** (p - 3))) for e, p in enumerate((6, 3, 3, 2, 2), 1)]
    assert run_figures.reductions(rows).axes[0].get_yscale() == "symlog"
    markup(run_figures.reductions(rows))


@pytest.mark.parametrize(
    ("row", "names"),
    [
        (Reduction(1, 0, 0.0, 0.0), ["predicted", "observed"]),
        (Reduction(1, 3, math.nan, math.nan), []),
        (Reduction(1, 3, 5.0, math.nan), ["predicted"]),
    ],
)
def test_reductions_of_odd_data_are_drawn(row, names):
    figure = run_figures.reductions([row])
    (axes,) = figure.axes
    predicted, observed = axes.lines[1:]
    np.testing.assert_array_equal(predicted.get_ydata(), [row.predicted_delta_f])
    np.testing.assert_array_equal(observed.get_ydata(), [row.observed_delta_f])
    assert_limits_hold(axes, [1], [row.predicted_delta_f, row.observed_delta_f])
    assert texts(figure) == names
    assert "nan" not in "".join(markup(figure).itertext())


def test_names_of_series_do_not_touch():
    figure = run_figures.reductions([Reduction(1, 5, 100.0, 0.0), Reduction(2, 5, 0.5, 0.0)])
    shifts = [text.xyann[1] for text in figure.axes[0].texts]
    assert abs(shifts[0] - shifts[1]) >= 10


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (12.5, "12.5"), (-1200.0, "-1.2k"), (20000.0, "20k"), (3e6, "3M")]
)
def test_short_number(value, text):
    assert run_figures.short_number(value) == text


class TestFirstLayer:
    @pytest.mark.parametrize(
        ("shape", "num_tiles", "image"),
        [
            ((6, 1, 5, 5), 6, (5, 5, 4)),
            ((40, 1, 5, 5), 24, (5, 5, 4)),
            ((18, 3, 5, 5), 18, (5, 5, 4)),
            ((50, 784), 24, (28, 28, 4)),
            ((50, 3072), 24, (32, 32, 4)),
            ((4, 64), 4, (8, 8, 4)),
        ],
    )
    def test_weights_that_read_images_are_laid_out_like_them(self, shape, num_tiles, image):
        weight = np.random.default_rng(0).normal(size=shape)
        picture = filters.draw(weight)
        assert len(picture.figure.axes) == num_tiles
        assert picture.figure.axes[0].images[0].get_array().shape == image
        markup(picture.figure)

    @pytest.mark.parametrize("shape", [(20, 13), (5, 7, 3, 3), (256, 64, 1, 1)])
    def test_others_are_one_matrix(self, shape):
        picture = filters.draw(np.random.default_rng(0).normal(size=shape))
        (axes,) = picture.figure.axes
        assert axes.images[0].get_array().shape == (shape[0], math.prod(shape[1:]), 4)
        markup(picture.figure)

    def test_what_is_removed_is_cut_out(self):
        weight = np.random.default_rng(0).normal(size=(6, 1, 5, 5))
        weight[2, 0, 1, 3] = 0
        pixels = filters.draw(weight).figure.axes[2].images[0].get_array()
        assert pixels[1, 3, 3] == 0
        assert (pixels[..., 3] == 0).sum() == 1

    def test_signs_have_the_colours_of_the_key(self):
        weight = np.full((1, 1, 2, 2), 3.0)
        weight[0, 0, 0] = -3.0
        pixels = np.asarray(filters.draw(weight).figure.axes[0].images[0].get_array())
        for row, colour in ((0, filters.SIGNED[0]), (1, filters.SIGNED[2])):
            want = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            assert pixels[row, 0, :3] == pytest.approx(want, abs=0.01)

    def test_units_that_are_gone_are_counted_and_not_drawn(self):
        weight = np.ones((30, 16))
        weight[5:] = 0
        picture = filters.draw(weight)
        assert len(picture.figure.axes) == 5
        assert "25 of the 30 are removed entirely" in picture.caption

    def test_nothing_left(self):
        picture = filters.draw(np.zeros((30, 16)))
        assert "Every weight of this layer is removed" in picture.caption
        markup(picture.figure)


class TestMarkup:
    def test_colours_follow_the_page(self):
        text = style.svg(
            run_figures.curve(epochs([0.1, 0.2]), "accuracy", title="A"), name="a", description="d"
        )
        assert f"var(--blue, {style.BLUE})" in text
        assert f"var(--ink, {style.INK})" in text

    def test_identifiers_are_the_figures_own_and_every_reference_resolves(self):
        figure = run_figures.curve(epochs([0.1, 0.2, 0.3], reduced={2}), "accuracy", title="A")
        root = ET.fromstring(style.svg(figure, name="mine", description="d"))
        ids = [e.get("id") for e in root.iter() if e.get("id")]
        assert ids
        assert all(i.startswith("mine-") for i in ids)
        assert len(ids) == len(set(ids))
        href = "{http://www.w3.org/1999/xlink}href"
        used = [e.get(href)[1:] for e in root.iter() if (e.get(href) or "").startswith("#")]
        assert used
        assert set(used) <= set(ids)

    def test_text_stays_text(self):
        root = markup(run_figures.curve(epochs([0.1, 0.2]), "accuracy", title="Accuracy & more"))
        assert "Accuracy & more" in "".join(root.itertext())
        assert root.get("aria-label") == "a <test> & more"

    def test_the_users_own_matplotlib_settings_do_not_matter(self):
        import matplotlib

        def draw():
            return style.svg(
                run_figures.curve(epochs([0.1, 0.2]), "accuracy", title="A"), name="a", description=""
            )

        plain = draw()
        with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
            assert draw() == plain
            assert matplotlib.rcParams["font.size"] == 30
