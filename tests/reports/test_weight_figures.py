"""Figures of weights: the first layer as images, and distributions of what is left."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from secateur.reports import style, weight_figures
from secateur.reports.tables import collect
from secateur.reports.weight_figures import SIGNED, figure_filters, filters
from support.synthetic_comparison import make_run


def drawn(weight):
    """The axes with a first layer, and its caption."""
    shown = filters(weight)
    with style.drawing():
        axes = Figure(figsize=shown.size).add_subplot()
        figure_filters(axes, shown)
    return axes, shown.caption


def tiles(axes):
    return [image.get_array() for image in axes.images]


def assert_well_formed(axes):
    ET.fromstring(style.svg(axes.figure, name="test", description="d"))


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
def test_weights_that_read_images_are_laid_out_like_them(shape, num_tiles, image):
    axes, _ = drawn(np.random.default_rng(0).normal(size=shape))
    assert len(tiles(axes)) == num_tiles
    assert tiles(axes)[0].shape == image
    assert_well_formed(axes)


@pytest.mark.parametrize("shape", [(20, 13), (5, 7, 3, 3), (256, 64, 1, 1)])
def test_others_are_one_matrix(shape):
    axes, _ = drawn(np.random.default_rng(0).normal(size=shape))
    (matrix,) = tiles(axes)
    assert matrix.shape == (shape[0], math.prod(shape[1:]), 4)
    assert_well_formed(axes)


def test_what_is_removed_is_cut_out():
    weight = np.random.default_rng(0).normal(size=(6, 1, 5, 5))
    weight[2, 0, 1, 3] = 0
    pixels = tiles(drawn(weight)[0])[2]
    assert pixels[1, 3, 3] == 0
    assert (pixels[..., 3] == 0).sum() == 1


def test_signs_have_the_colours_of_the_key():
    weight = np.full((1, 1, 2, 2), 3.0)
    weight[0, 0, 0] = -3.0
    pixels = np.asarray(tiles(drawn(weight)[0])[0])
    for row, colour in ((0, SIGNED[0]), (1, SIGNED[2])):
        want = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert pixels[row, 0, :3] == pytest.approx(want, abs=0.01)


def test_units_that_are_gone_are_counted_and_not_drawn():
    weight = np.ones((30, 16))
    weight[5:] = 0
    axes, caption = drawn(weight)
    assert len(tiles(axes)) == 5
    assert "25 of the 30 are removed entirely" in caption


def test_nothing_left():
    axes, caption = drawn(np.zeros((30, 16)))
    assert "Every weight of this layer is removed" in caption
    assert_well_formed(axes)


def test_removed_weights_are_the_height_where_a_line_begins(tmp_path):
    small = {"conv1": (4, 1, 3, 3), "dense": (6, 20), "output": (10, 6)}
    for method in ("flat-map", "calibrated"):
        make_run(tmp_path, method=method, shapes=small, num_epochs=1)
    (group,) = collect(tmp_path).groups
    grid = weight_figures.weights(group)
    assert [panel.name for panel in grid.panels] == ["conv1.weight", "dense.weight", "output.weight"]
    with style.drawing():
        axes = Figure().add_subplot()
        grid.panels[1].draw(axes)
    for line, label in zip(axes.lines, group.labels, strict=True):
        layers = group.of(label)[0].layers.set_index("name")
        share = line.get_ydata()
        assert share[0] == pytest.approx(1 - layers.loc["dense.weight", "kept"])
        assert share[-1] == 1
        assert (np.diff(share) >= 0).all()
    assert axes.xaxis.get_major_formatter()(axes.get_xticks()[0], 0) == "0"


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [0.25], [1e-30, 1.0], [0.15, 0.8], [1e-6, 1.2]])
def test_distributions_of_few_or_extreme_weights_are_drawn(tmp_path, values):
    make_run(tmp_path, method="flat-map", shapes={"dense": (2, 2)}, num_epochs=1)
    (group,) = collect(tmp_path).groups
    with style.drawing():
        axes = Figure().add_subplot()
        sizes = {"flat-map": np.array([0.0, *values], dtype=np.float32)}
        weight_figures._distribution(axes, group=group, layer="dense", sizes=sizes)
    low, high = axes.get_xlim()
    assert 0 < low < high
    ticks = [tick for tick in axes.get_xticks() if low * 1.01 < tick <= high]
    assert 1 <= len(ticks) <= 4
    assert_well_formed(axes)
