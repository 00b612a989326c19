"""Calls take turns, each twice; the second one is timed."""

import time

import torch

from secateur.export.timing import alternating_medians, alternating_times


def test_calls_take_turns_in_pairs() -> None:
    order: list[str] = []
    calls = [lambda x: order.append("a"), lambda x: order.append("b")]
    times = alternating_times(calls, (torch.zeros(1),), seconds=60.0, most_rounds=7)
    assert [len(own) for own in times] == [7, 7]
    assert order == ["a", "a", "b", "b"] * 8


def test_five_rounds_are_done_in_any_case() -> None:
    times = alternating_times([lambda: None], (), seconds=0.0, most_rounds=1000)
    assert len(times[0]) == 5


def test_the_first_call_of_a_pair_is_not_timed() -> None:
    number = iter(range(1000))

    def every_other() -> None:
        time.sleep(0.02 if next(number) % 2 == 0 else 0.0)

    slow, quick = alternating_medians([lambda: time.sleep(0.02), every_other], (), seconds=0.0)
    assert slow >= 0.02
    assert quick < 0.01
