"""How pages and figures look: styles of methods, SVG and files, escaping in templates."""

import re
import xml.etree.ElementTree as ET
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
from markupsafe import Markup

from secateur.reports import style
from secateur.reports.style import (
    CSS_VARIABLES,
    FORMATS,
    FigureGrid,
    Panel,
    combined_figure,
    file_of,
    line_style,
    panel,
    point_style,
)
from secateur.training.methods import family_of, in_order

KNOWN = (
    "flat-map", "flat-ff", "tiered-ff", "horseshoe-ff", "bmr-spike-and-slab", "bmr-horseshoe", "calibrated",
    "ivon", "magnitude", "signal-to-noise", "obd",
)  # fmt: skip


def plain(axes):
    axes.plot([0, 1, 0], marker="o", color=style.BLUE)
    axes.set_title("Accuracy & more")


def drawn(draw=plain, **changes):
    given = {"size": (2.5, 2.0), "name": "mine", "description": "a <test> & more"} | changes
    return panel(draw, **given)


def test_every_method_is_told_apart_without_colour_and_on_a_page():
    styles = [line_style(name) for name in KNOWN]
    assert in_order(KNOWN[::-1]) == list(KNOWN)
    assert [family_of(name) for name in KNOWN] == ["published"] * 6 + ["ours"] * 2 + ["baselines"] * 3
    for key in ("marker", "color"):
        assert len({each[key] for each in styles}) == len(KNOWN)
    assert all(each["color"] in CSS_VARIABLES for each in styles)
    dashed = {name for name, each in zip(KNOWN, styles, strict=True) if each.get("linestyle", "-") != "-"}
    assert dashed == {"magnitude", "signal-to-noise", "obd"}
    assert {name for name, each in zip(KNOWN, styles, strict=True) if each["markeredgewidth"]} == dashed
    assert {point_style(name)["linestyle"] for name in KNOWN} == {"none"}


def test_lightness_tells_members_of_a_hue_apart():
    def lightness(name):  # relative luminance, WCAG 2
        channels = [int(line_style(name)["color"][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    for members in (KNOWN[1:4], KNOWN[4:6], KNOWN[6:8], KNOWN[8:]):
        ordered = sorted(map(lightness, members))
        assert all((b + 0.05) / (a + 0.05) > 1.4 for a, b in pairwise(ordered))


def test_unknown_methods_get_styles_of_their_own():
    names = [f"new-{number}" for number in range(20)]
    styles = [line_style(name, names) for name in names]
    assert {family_of(name) for name in names} == {"further"}
    assert len({(each["color"], each["marker"], str(each["linestyle"])) for each in styles}) == len(names)
    assert in_order(["new-0", "ivon", "flat-ff"]) == ["flat-ff", "ivon", "new-0"]


def test_every_colour_of_a_page_has_a_value_for_light_dark_and_paper():
    css = files("secateur.reports").joinpath("templates", "page.css").read_text()
    for variable in CSS_VARIABLES.values():
        assert len(re.findall(rf"{variable}: #", css)) >= 3, variable


def test_colours_follow_the_page_and_text_stays_text():
    text = drawn()
    assert f"var(--blue, {style.BLUE})" in text
    assert f"var(--ink, {style.INK})" in text
    root = ET.fromstring(text)
    assert "Accuracy & more" in "".join(root.itertext())
    assert root.get("aria-label") == "a <test> & more"


def test_names_are_not_taken_for_formulas_or_markup():
    evil = r"$\frac{</svg><script>"
    root = ET.fromstring(drawn(lambda axes: axes.set_title(evil), name=evil))
    assert evil in "".join(root.itertext())
    assert {element.tag.rpartition("}")[2] for element in root.iter()} & {"script"} == set()


def test_identifiers_are_the_figures_own_and_every_reference_resolves():
    root = ET.fromstring(drawn())
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert ids
    assert all(i.startswith("mine-") for i in ids)
    assert len(ids) == len(set(ids))
    href = "{http://www.w3.org/1999/xlink}href"
    used = [e.get(href)[1:] for e in root.iter() if (e.get(href) or "").startswith("#")]
    assert used
    assert set(used) <= set(ids)


def test_the_users_own_matplotlib_settings_do_not_matter():
    import matplotlib

    expected = drawn()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        assert drawn() == expected
        assert matplotlib.rcParams["font.size"] == 30


def grid_of(count, **changes):
    panels = tuple(Panel(str(i), "", plain) for i in range(count))
    return FigureGrid("n", panels, (2.0, 1.5), **({"columns": 2} | changes))


def test_a_grid_puts_panels_in_rows_under_a_legend_that_does_not_overlap():
    figure = combined_figure(grid_of(3), {name: line_style(name) for name in KNOWN})
    assert figure.get_size_inches()[0] == pytest.approx(4.0)
    lefts = [axes.get_position().x0 for axes in figure.axes]
    assert lefts[0] == pytest.approx(lefts[2])
    assert lefts[0] < lefts[1]
    assert figure.axes[0].get_position().y0 > figure.axes[2].get_position().y1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == list(KNOWN)
    box = legend.get_window_extent().transformed(figure.transFigure.inverted())
    assert box.y0 > figure.axes[0].get_position().y1
    assert not combined_figure(grid_of(2, legend=False), {}).legends


def test_files_are_the_same_for_the_same_figure():
    for ending in FORMATS:
        one, two = (file_of(combined_figure(grid_of(1), {}), ending, name="x") for _ in range(2))
        assert one == two
    svg = file_of(combined_figure(grid_of(1), {}), "svg", name="x").decode()
    assert "var(--" not in svg


def test_markdown_has_no_markup_but_the_templates_own():
    escaped = style._markdown("<b>|[x](y) `c` *d* a_b & \n# e</b>")
    assert escaped == r"&lt;b&gt;\|\[x\](y) \`c\` \*d\* a\_b &amp; # e&lt;/b&gt;"
    assert style._markdown(Markup("**")) == "**"
