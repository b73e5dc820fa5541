"""Prompts are read along with running sequences as fast as that does not slow these down too much."""

import pytest

from modelrack_llm_gguf.pace import Pace


def settle(
    pace: Pace, *, base_s: float, fixed_s: float, token_s: float, running: int = 4, steps: int = 200
) -> list[float]:
    """Return the times of steps on a machine where they follow this law."""
    times = []
    for _ in range(10):
        pace.learn(running, 0, base_s)
    for _ in range(steps):
        amount = pace.budget(running)
        seconds = base_s + (fixed_s + amount * token_s if amount else 0.0)
        pace.learn(running, amount, seconds)
        times.append(seconds)
    return times


@pytest.mark.parametrize(("token_s", "fixed_s"), [(0.00005, 0.0), (0.0002, 0.001), (0.00001, 0.002)])
def test_a_step_with_a_prompt_takes_about_twice_as_long(token_s: float, fixed_s: float) -> None:
    times = settle(Pace(4096), base_s=0.01, fixed_s=fixed_s, token_s=token_s)
    mixed = [one for one in times[100:] if one > 0.01]
    assert 0.018 < sum(mixed) / len(mixed) < 0.022
    assert max(mixed) < 0.03


def test_a_prompt_always_goes_on_however_slow_it_is() -> None:
    pace = Pace(512)
    settle(pace, base_s=0.001, fixed_s=0.5, token_s=0.1)
    assert [pace.budget(4) for _ in range(3)].count(0) < 3
    assert sum(settle(pace, base_s=0.001, fixed_s=0.0, token_s=0.001, steps=50)) > 0.05


def test_one_step_in_a_while_goes_without_a_prompt() -> None:
    pace = Pace(512)
    times = settle(pace, base_s=0.01, fixed_s=0.0, token_s=0.0001)
    assert 10 < times.count(0.01) < 40


def test_alone_a_prompt_is_read_in_large_parts_but_not_for_seconds() -> None:
    pace = Pace(512)
    assert pace.budget(0) == 512
    pace.learn(0, 512, 0.05)
    assert pace.budget(0) == 512
    for _ in range(50):
        pace.learn(0, 512, 51.2)
    assert pace.budget(0) <= 16


def test_a_busy_moment_does_not_change_what_is_usual() -> None:
    pace = Pace(512)
    settle(pace, base_s=0.01, fixed_s=0.0, token_s=0.0001)
    before = pace.budget(4)
    pace.learn(4, 0, 5.0)
    after = settle(pace, base_s=0.01, fixed_s=0.0, token_s=0.0001, steps=100)
    assert before > 0
    assert max(after) < 0.035


def test_rows_fill_up_the_blocks_that_kernels_compute() -> None:
    pace = Pace(512)
    settle(pace, base_s=0.01, fixed_s=0.0, token_s=0.0002, running=7)
    pace.learn(7, 0, 0.01)
    assert (7 + pace.budget(7)) % 4 == 0


def test_the_prompts_of_as_many_as_run_are_read_at_once_if_that_is_soon_done() -> None:
    pace = Pace(512)
    settle(pace, base_s=0.025, fixed_s=0.0, token_s=0.0016)
    pace.learn(4, 0, 0.025)
    assert pace.budget(4, 4, 128) == 128
    assert pace.budget(4, 3, 96) < 32
    assert pace.budget(4, 4, 400) < 32
