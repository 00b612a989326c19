"""Numbers as people read them."""

import math

import pytest

from secateur.reports import wording
from secateur.reports.record import read
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


def test_outcome_and_command(run_dir):
    record = read(run_dir)
    assert wording.outcome(record).startswith("LeNet on Fashion-MNIST: 9")
    assert wording.outcome(record).endswith("of 61,706 weights removed")
    assert wording.key_scores(record).startswith("accuracy 0.905, ")
    assert wording.command(record) == "secateur fit lenet fashion-mnist --epochs 40 --seed 0"
    record.config["command"] = ["secateur", "fit", "a b"]
    assert wording.command(record) == "secateur fit 'a b'"
    record.config.pop("command")
    assert wording.command(record) is None
