"""The result of a pruning in rounds: which rounds count, and the lines that are printed."""

import math
from dataclasses import replace

import torch

from secateur.pruning import PruneResult, PruneRound
from secateur.pruning.result import summarise


def tried() -> PruneResult:
    """Three rounds of which two are in the network."""
    keep = {"fc.weight": torch.ones(4, 5, dtype=torch.bool)}
    masks = {"fc.weight": torch.arange(20).view(4, 5) >= 8}
    rounds = tuple(
        PruneRound(
            sparsity=0.2 * number,
            num_removed=4,
            predicted_delta_f=10.0 * number,
            loss=1.0 + 0.1 * number,
            held_out_loss=2.0 + 0.01 * number,
            held_out_rise=0.01 * number,
            held_out_error=0.002,
        )
        for number in (1, 2, 3)
    )
    return replace(
        summarise(keep, {}, masks),
        trace=rounds,
        loss_before=1.0,
        held_out_before=2.0,
        observed_delta_f=7.0,
        chosen_round=2,
        stopped_by="held-out loss",
        num_data=1234,
    )


def test_only_rounds_in_the_network_count():
    result = tried()
    assert len(result.rounds) == 2
    assert result.loss_after == result.trace[1].loss
    assert result.predicted_delta_f == 30.0
    whole = replace(result, chosen_round=None)
    assert whole.rounds == whole.trace
    assert whole.predicted_delta_f == 60.0
    none = replace(result, chosen_round=0)
    assert none.rounds == ()
    assert none.loss_after == none.loss_before


def test_the_last_line_says_what_stopped_it_and_on_what_data():
    assert str(tried()).splitlines()[-1] == (
        "Held-out loss: 2.0000 before, 2.0200 after (rise +0.0200, s.e. 0.0020). "
        "Stopped by held-out loss: 2 of 3 rounds kept, 1,234 data."
    )
    none = replace(tried(), chosen_round=0, stopped_by="evidence")
    assert str(none).splitlines()[-1] == (
        "Stopped by evidence before any removal: 0 of 3 rounds kept, 1,234 data."
    )


def test_a_pruning_without_rounds_says_nothing_of_a_stop():
    plain = replace(tried(), stopped_by="", chosen_round=None, held_out_before=math.nan)
    assert "Stopped" not in str(plain)
    assert "Held-out" not in str(plain)


def test_it_is_twenty_lines_at_most():
    masks = {f"blocks.{number}.weight": torch.ones(2, 2, dtype=torch.bool) for number in range(60)}
    long = replace(summarise(masks, {}, masks), stopped_by="target", loss_before=1.0)
    long = replace(long, trace=(replace(long.trace[0], loss=2.0, held_out_loss=1.0),))
    lines = str(long).splitlines()
    assert len(lines) == 20
    assert "46 more layers" in str(long)
