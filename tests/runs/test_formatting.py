"""Numbers as people read them."""

import math

import pytest

from secateur.runs import formatting


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.9551, "95.5 %"),
        (1.0, "100.0 %"),
        (0.99999, "> 99.9 %"),
        (0.0, "0.0 %"),
        (1e-6, "< 0.1 %"),
        (math.nan, "–"),
    ],
)
def test_percent_never_claims_all_or_nothing_by_rounding(share, text):
    assert formatting.percent(share).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (42.2, "42 s"),
        (384.2, "6 min 24 s"),
        (59.7, "1 min 0 s"),
        (7500.0, "2 h 5 min"),
        (math.nan, "–"),
    ],
)
def test_duration(seconds, text):
    assert formatting.duration(seconds) == text


def test_number():
    assert formatting.number(-0.27, 2) == "−0.27"
    assert formatting.number(math.inf) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (812, "812 B"),
        (999.5, "1.0 kB"),
        (6130, "6.1 kB"),
        (99_950, "100 kB"),
        (5e12, "5000 GB"),
        (math.nan, "–"),
    ],
)
def test_num_bytes(value, text):
    assert formatting.num_bytes(value) == text


def test_times():
    assert formatting.times(12.0, 5.0) == "2.4x"
    assert formatting.times(12.0, math.nan) == "–"
