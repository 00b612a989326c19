"""Format numbers, shares, sizes and times for people to read."""

import math
from typing import Any

__all__ = ["DASH", "MINUS", "duration", "num_bytes", "number", "percent", "printable", "times"]

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
"""Stands where there is no value."""


def number(value: float, digits: int = 3) -> str:
    """Format a number with thousands set apart; a dash for nan and inf."""
    return f"{value:,.{digits}f}".replace("-", MINUS) if math.isfinite(value) else DASH


def percent(share: float) -> str:
    """Format a share of 1 as per cent, never rounded up to a whole that is not reached."""
    if not math.isfinite(share):
        return DASH
    text = f"{100 * share:.1f}"
    if text == "100.0" and share < 1:
        text = "> 99.9"
    elif text == "0.0" and share > 0:
        text = "< 0.1"
    return f"{text}\N{NO-BREAK SPACE}%"


def duration(seconds: float) -> str:
    """Format a time span: 42 s, 6 min 24 s, 2 h 5 min."""
    if not math.isfinite(seconds):
        return DASH
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def num_bytes(value: float | int) -> str:
    """Format a size: 812 B, 6.1 kB, 4.6 MB (powers of 1000); a dash for nan and inf.

    >>> num_bytes(6130), num_bytes(812)
    ('6.1 kB', '812 B')
    """
    if not math.isfinite(value):
        return DASH
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def times(reference: float, value: float) -> str:
    """Format how many times smaller a value is than a reference, as `12.3x`; a dash where unknown."""
    return f"{reference / value:.1f}x" if math.isfinite(reference / value) else DASH


def printable(value: Any) -> Any:
    r"""Replace control and formatting characters in text, also inside lists and mappings.

    A terminal or a page could take them for more than text.

    >>> printable({"name": "a" + chr(27) + "[2J"})
    {'name': 'a\ufffd[2J'}
    """
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else "\ufffd" for c in value)
    if isinstance(value, dict):
        return {printable(key): printable(each) for key, each in value.items()}
    return type(value)(map(printable, value)) if isinstance(value, list | tuple) else value
