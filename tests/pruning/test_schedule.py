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
    targets = [schedule.target(0.95, number=number) for number in (1, 2, 3, 4)]
    stay = [1 - target for target in targets]
    assert targets[-1] == pytest.approx(0.95)
    assert [after / before for before, after in zip([1.0, *stay], stay, strict=False)] == pytest.approx(
        [0.05 ** (1 / 4)] * 4
    )


def test_cubic_targets_follow_their_formula():
    schedule = Schedule(first_epoch=1, last_epoch=8, every=2, shape="cubic")
    assert schedule.num_reductions == sum(schedule.due(epoch) for epoch in range(20)) == 4
    targets = [schedule.target(0.8, number=number) for number in (1, 2, 3, 4)]
    assert targets == pytest.approx([0.8 * (1 - (1 - done) ** 3) for done in (0.25, 0.5, 0.75, 1.0)])
    with pytest.raises(InvalidArgumentError, match="shape: expected one of geometric, cubic, got 'linear'"):
        Schedule(first_epoch=1, last_epoch=2, shape="linear")


@pytest.mark.parametrize("steps_per_epoch", [45, 90, 500])
def test_over_a_run_reductions_wait_for_the_curvature_and_end_before_the_run(steps_per_epoch):
    schedule = Schedule.over(50, steps_per_epoch=steps_per_epoch)
    assert schedule.first_epoch * steps_per_epoch >= 1000
    assert schedule.every * steps_per_epoch >= 500
    assert schedule.last_epoch == 35
    due = [epoch for epoch in range(51) if schedule.due(epoch)]
    assert len(due) == schedule.num_reductions
    assert (1 - schedule.max_fraction) ** sum(epoch <= 30 for epoch in due) >= 0.0139 or (
        schedule.max_fraction == 0.35
    )


def test_a_run_too_short_has_no_schedule():
    assert Schedule.over(5, steps_per_epoch=100) is None
    assert Schedule.over(1, steps_per_epoch=1e4) is None
