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


def test_geometric_targets_let_the_same_share_stay_each_time():
    schedule = Schedule(first_epoch=2, last_epoch=5)
    targets = [schedule.target(0.95, epoch=epoch, epochs=8) for epoch in (2, 3, 4, 5)]
    stay = [1 - target for target in targets]
    assert targets[-1] == pytest.approx(0.95)
    assert [after / before for before, after in zip([1.0, *stay], stay, strict=False)] == pytest.approx(
        [0.05 ** (1 / 4)] * 4
    )


def test_cubic_targets_follow_their_formula():
    schedule = Schedule(first_epoch=1, last_epoch=9, every=2, shape="cubic")
    targets = [schedule.target(0.8, epoch=epoch, epochs=7) for epoch in (1, 3, 5, 7)]  # 9 is never reached
    assert targets == pytest.approx([0.8 * (1 - (1 - done) ** 3) for done in (0.25, 0.5, 0.75, 1.0)])
    with pytest.raises(InvalidArgumentError, match="shape: expected one of geometric, cubic, got 'linear'"):
        Schedule(first_epoch=1, last_epoch=2, shape="linear")
