"""When a reduction is due, and what a schedule refuses."""

import math

import pytest

from secateur.errors import InvalidArgumentError
from secateur.pruning import Schedule


def test_due_between_first_and_last_every_so_often():
    schedule = Schedule(first_epoch=2, last_epoch=9, every=3)
    assert [epoch for epoch in range(15) if schedule.due(epoch)] == [2, 5, 8]
    assert [epoch for epoch in range(6) if Schedule(first_epoch=3, last_epoch=3).due(epoch)] == [3]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"first_epoch": 0}, "expected 1 <= first <= last, got 0, 5"),
        ({"first_epoch": 6}, "expected 1 <= first <= last, got 6, 5"),
        ({"every": 0}, "every: expected at least 1"),
        ({"max_fraction": 0.0}, "max_fraction: expected a fraction"),
        ({"max_fraction": 1.5}, "max_fraction: expected a fraction"),
        ({"max_sparsity": math.nan}, "max_sparsity: expected a fraction"),
        ({"max_loss_rise": 0.0}, "max_loss_rise: expected a positive"),
        ({"max_loss_rise": math.nan}, "max_loss_rise: expected a positive"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Schedule(**({"first_epoch": 1, "last_epoch": 5} | wrong))
