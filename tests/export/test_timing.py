"""Calls take turns, several at a time; the last one is timed."""

import time

import pytest
import torch

from secateur.export import timing
from secateur.export.timing import alternating_medians, alternating_times


def test_calls_take_turns() -> None:
    order: list[str] = []
    calls = [lambda x: order.append("a"), lambda x: order.append("b")]
    times = alternating_times(calls, (torch.zeros(1),), seconds=60.0, most_rounds=7)
    assert [len(own) for own in times] == [7, 7]
    assert order == ["a", "b"] + (["a"] * 21 + ["b"] * 21) * 7


def test_five_rounds_are_done_in_any_case() -> None:
    times = alternating_times([lambda: None], (), seconds=0.0, most_rounds=1000)
    assert len(times[0]) == 5


def test_only_the_last_call_of_a_turn_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SECONDS_BEFORE", 60.0)
    number = iter(range(1000))

    def cold_after_another() -> None:
        time.sleep(0.0 if next(number) % 21 == 0 else 0.001)  # one call comes before the first turn

    (found,) = alternating_medians([cold_after_another], (), seconds=0.0)
    assert found < 0.0005


def test_a_long_call_is_made_once_before() -> None:
    order: list[str] = []

    def long() -> None:
        order.append("a")
        time.sleep(0.011)

    alternating_times([long], (), seconds=0.0, most_rounds=5)
    assert len(order) == 1 + 2 * 5
