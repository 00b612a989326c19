"""Where a removal stops, by made-up evidence and losses."""

import math
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.pruning.measuring import Losses
from secateur.pruning.stopping import PATIENCE, Stop, stop_at

NUM_DATA = 50


def losses(mean: float, *, spread: float = 0.0, num_data: int = NUM_DATA) -> Losses:
    """Losses of a mean, half of them above it by the spread and half below."""
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(num_data // 2)
    return Losses(mean + spread * signs, torch.ones(num_data, dtype=torch.float64))


def flat(count: int) -> list[Losses]:
    return [losses(1.0)] * count


def test_it_is_the_peak_of_the_evidence_where_the_loss_allows_it():
    assert stop_at([0.0, 5.0, 9.0, 7.0], flat(4)) == Stop(2, "evidence", settled=False)
    assert stop_at([0.0, 5.0, 9.0, 7.0, 8.0], flat(5)) == Stop(2, "evidence", settled=True)
    assert stop_at([0.0, -3.0, -5.0], flat(3)) == Stop(0, "evidence", settled=True)


def test_before_any_round_it_is_the_network_as_it_was():
    assert stop_at([0.0], [losses(1.0)]) == Stop(0, "evidence", settled=False)


def test_the_loss_on_held_out_data_bounds_it():
    held_out = [losses(1.0), losses(1.0), losses(1.2), losses(1.5)]
    assert stop_at([0.0, 5.0, 9.0, 12.0], held_out) == Stop(1, "held-out loss", settled=True)


def test_within_one_standard_error_of_the_best_is_good_enough():
    """The best has losses of +-0.5 around its mean, so a standard error of 0.5 / 7."""
    error = 0.5 / math.sqrt(NUM_DATA - 1)
    for rise, chosen in ((0.98 * error, 1), (1.02 * error, 0)):
        found = stop_at([0.0, 5.0], [losses(1.0, spread=0.5), losses(1.0 + rise, spread=0.5)])
        assert found.round == chosen
        assert found.by == ("evidence" if chosen else "held-out loss")


def test_the_best_is_the_best_that_was_seen_not_the_first():
    error = 0.5 / math.sqrt(NUM_DATA - 1)
    held_out = [losses(1.0), losses(0.5, spread=0.5), losses(0.5 + 1.1 * error, spread=0.5), losses(0.9)]
    assert stop_at([0.0, 1.0, 2.0, 3.0], held_out) == Stop(1, "held-out loss", settled=True)


def test_a_round_beyond_a_bad_one_is_chosen_if_its_own_loss_is_good():
    held_out = [losses(1.0), losses(1.4), losses(1.0)]
    assert stop_at([0.0, 1.0, 2.0], held_out) == Stop(2, "evidence", settled=False)


def test_a_rise_that_is_allowed_is_counted_from_before():
    held_out = [losses(1.0), losses(0.8), losses(1.05), losses(1.15)]
    assert stop_at([0.0, 1.0, 2.0, 3.0], held_out, max_loss_rise=0.1) == Stop(
        2, "held-out loss", settled=False
    )
    assert stop_at([0.0, 1.0, 2.0, 3.0], held_out, max_loss_rise=0.2) == Stop(3, "evidence", settled=False)
    assert stop_at([0.0, 1.0, 2.0, 3.0], held_out, max_loss_rise=0.0) == Stop(
        1, "held-out loss", settled=True
    )
    # the evidence still stops first where it peaks first
    assert stop_at([0.0, 9.0, 2.0, 3.0], held_out, max_loss_rise=9.0) == Stop(1, "evidence", settled=True)


def test_evidence_that_is_no_number_is_never_a_peak():
    assert stop_at([0.0, math.nan, 3.0], flat(3)).round == 2
    assert stop_at([0.0, math.nan, -math.inf], flat(3)) == Stop(0, "evidence", settled=True)


def test_a_single_datum_bounds_nothing():
    """It has no standard error, so only a rise that is allowed can bound it."""
    held_out = [Losses(torch.tensor([value]).double(), torch.ones(1).double()) for value in (1.0, 2.0)]
    assert stop_at([0.0, 1.0], held_out).round == 1
    assert stop_at([0.0, 1.0], held_out, max_loss_rise=0.5).round == 0


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 2), st.floats(0, 1)), min_size=2, max_size=8),
    st.none() | st.floats(0, 1),
)
def test_later_rounds_never_take_a_round_back(rounds, max_loss_rise):
    """So the values of rounds before the chosen one need not be kept."""
    evidence = [each for each, _, _ in rounds]
    held_out = [losses(mean, spread=spread, num_data=6) for _, mean, spread in rounds]
    chosen = [
        stop_at(evidence[:count], held_out[:count], max_loss_rise=max_loss_rise)
        for count in range(1, len(rounds) + 1)
    ]
    assert all(before.round <= after.round for before, after in pairwise(chosen))
    for count, stop in enumerate(chosen):
        assert 0 <= stop.round <= count
        assert stop.settled == (count - stop.round >= PATIENCE)
