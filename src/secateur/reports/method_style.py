"""Colour, marker and dash of each method, the same in every figure and table.

A family has its own hues and its own kind of line and marker, so that a reader sees it before a name: the
published methods are solid with filled markers (full posteriors green, reduction blue), ours solid and
warm, the baselines dashed with markers of strokes. Within a hue members differ in lightness, and each has
a marker of its own, so nothing hangs on telling hues apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.lines import Line2D

from secateur.reports.style import BLUE, HUES, ORANGE

__all__ = ["FAMILIES", "MethodStyle", "in_order", "method_style"]

FAMILIES = ("published", "ours", "baselines", "further")
"""The families in the order of tables and legends."""


@dataclass(frozen=True, kw_only=True)
class MethodStyle:
    """Line and marker style of a method.

    Attributes:
        name: The method, as the command line calls it.
        family: One of `FAMILIES`.
        colour: A placeholder of `style.CSS_VARIABLES`.
        marker: As matplotlib names it.
        dashes: Lengths of stroke and gap in line widths; none for a solid line.
        width: Of the line, in points.
    """

    name: str
    family: str
    colour: str
    marker: str
    dashes: tuple[float, ...] = ()
    width: float = 1.5

    @property
    def stroked(self) -> bool:
        """Whether the marker is made of strokes and has no inside to fill."""
        return self.marker in _STROKED

    def line(self, *, marker: bool = True, size: float = 5.0) -> dict[str, Any]:
        """Return the arguments of `Axes.plot` for a line of this method.

        Args:
            marker: Whether to set markers on it.
            size: Of the markers, in points.
        """
        drawn: dict[str, Any] = {"color": self.colour, "linewidth": self.width}
        if self.dashes:
            drawn["dashes"] = self.dashes
        return drawn | self.points(size=size, line=True) if marker else drawn

    def points(self, *, size: float = 5.0, line: bool = False) -> dict[str, Any]:
        """Return the arguments of `Axes.plot` for markers of this method.

        Args:
            size: In points.
            line: Leave the line as it is; else there is none.
        """
        scale = {"*": 1.5, "D": 0.85, "s": 0.9, "1": 1.35, "x": 1.0, "+": 1.2}.get(self.marker, 1.0)
        drawn: dict[str, Any] = {
            "color": self.colour,
            "marker": self.marker,
            "markersize": scale * size,
            "markeredgewidth": 0.3 * size if self.stroked else 0.0,
        }
        return drawn if line else drawn | {"linestyle": "none"}

    def handle(self) -> Line2D:
        """Return a piece of this method's line, for a legend."""
        return Line2D([], [], **self.line())


_STROKED = frozenset("x+1234|_")

_KNOWN = {
    style.name: style
    for style in (
        MethodStyle(name="flat-map", family="published", colour=HUES["slate"], marker="o"),
        MethodStyle(name="flat-ff", family="published", colour=HUES["mint"], marker="v"),
        MethodStyle(name="tiered-ff", family="published", colour=HUES["green"], marker="^"),
        MethodStyle(name="horseshoe-ff", family="published", colour=HUES["pine"], marker="<"),
        MethodStyle(name="bmr-spike-and-slab", family="published", colour=BLUE, marker="s"),
        MethodStyle(name="bmr-horseshoe", family="published", colour=HUES["sky"], marker="D"),
        MethodStyle(name="calibrated", family="ours", colour=ORANGE, marker="*", width=2.2),
        MethodStyle(name="ivon", family="ours", colour=HUES["amber"], marker="P", width=1.8),
        MethodStyle(name="magnitude", family="baselines", colour=HUES["pink"], marker="x", dashes=(4.0, 1.6)),
        MethodStyle(
            name="signal-to-noise", family="baselines", colour=HUES["plum"], marker="+", dashes=(1.4, 1.4)
        ),
        MethodStyle(
            name="obd", family="baselines", colour=HUES["wine"], marker="1", dashes=(5.0, 1.5, 1.2, 1.5)
        ),
    )
}
_SPARE_HUES, _SPARE_MARKERS = ("brown", "olive", "clay"), ("p", "h", "X", "d", ">", "8")
_SPARE = tuple((HUES[hue], marker) for marker in _SPARE_MARKERS for hue in _SPARE_HUES)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort methods for tables and legends: known ones family by family, then the others.

    >>> in_order(["obd", "mine", "flat-map"])
    ('flat-map', 'obd', 'mine')
    """
    given = set(names)
    return (*(name for name in _KNOWN if name in given), *sorted(given - _KNOWN.keys()))


def method_style(name: str, others: Iterable[str] = ()) -> MethodStyle:
    """Return the line and marker style of a method.

    Args:
        name: The method; one that is not known gets a style of the family `further`.
        others: All methods of the comparison, so that unknown ones differ from each other.

    >>> method_style("calibrated").family, method_style("mine").family
    ('ours', 'further')
    """
    if name in _KNOWN:
        return _KNOWN[name]
    index = sorted({name, *others} - _KNOWN.keys()).index(name)
    colour, marker = _SPARE[index % len(_SPARE)]
    dashes = ((), (3.0, 1.2), (1.0, 1.0))[index // len(_SPARE) % 3]
    return MethodStyle(name=name, family="further", colour=colour, marker=marker, dashes=dashes)
