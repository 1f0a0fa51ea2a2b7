"""Calls are measured in turns; what the machine does to one lane it does to all."""

import time
from collections.abc import Callable
from statistics import median

import pytest
from memvp_export.exporter.bench.rounds import TURN, Call, measure


def call_of(clock: Callable, cost: Callable[[int], float], told: Callable[[], None] = lambda: None) -> Call:
    made = 0

    def call() -> None:
        nonlocal made
        told()
        clock.wait(cost(made))  # type: ignore[attr-defined]
        made += 1

    return call


def test_the_first_call_and_the_warm_up_are_not_among_the_measured_ones(clock: Callable) -> None:
    def cost(call: int) -> float:
        return 9.0 if call == 0 else 4.0 if call <= 2 else 0.5

    (found,) = measure([call_of(clock, cost)], warmup=2, iterations=7, duration=0)
    assert found.first == 9.0
    assert len(found.seconds) >= 7 and set(found.seconds) == {0.5}


def test_it_goes_on_for_the_duration_of_the_slowest_lane(clock: Callable) -> None:
    fast, slow = measure([call_of(clock, lambda _: 0.001), call_of(clock, lambda _: 0.1)], 0, 1, duration=2.0)
    assert 2.0 <= sum(slow.seconds) < 2.2 and len(fast.seconds) == len(slow.seconds)
    assert sum(measure([call_of(clock, lambda _: 0.1)], 0, 1, duration=4.0)[0].seconds) >= 4.0


def test_one_call_can_be_asked_for(clock: Callable) -> None:
    (found,) = measure([call_of(clock, lambda _: 0.1)], warmup=0, iterations=1, duration=0)
    assert len(found.seconds) == 1


def test_lanes_take_turns_and_each_turn_begins_unmeasured_in_rotating_order(clock: Callable) -> None:
    order: list[str] = []
    calls = [call_of(clock, lambda _: 0.1, lambda name=name: order.append(name)) for name in "ab"]  # type: ignore[misc]
    measure(calls, warmup=0, iterations=2 * TURN, duration=0)
    turn = TURN + 1
    assert "".join(order) == "ab" + "a" * turn + "b" * turn + "b" * turn + "a" * turn


def test_a_drifting_machine_does_not_move_the_ratio(clock: Callable) -> None:
    total = 0

    def slower() -> None:
        nonlocal total
        total += 1

    calls = [
        call_of(clock, lambda _: 0.1 * (1 + total / 50), slower),
        call_of(clock, lambda _: 0.3 * (1 + total / 50), slower),
    ]
    one, three = measure(calls, warmup=0, iterations=100, duration=0)
    assert one.seconds[-1] > 4 * one.seconds[0]
    assert median(three.seconds) / median(one.seconds) == pytest.approx(3, rel=0.05)


def test_real_time_is_measured() -> None:
    (found,) = measure([lambda: time.sleep(0.01)], warmup=0, iterations=5, duration=0)
    assert min(found.seconds) >= 0.01 and min(found.seconds) < 0.1
