"""What is learned from the batches so far."""

import pytest

from modelrack.batching import BatchLimits
from modelrack.batching.pace import Pace


def test_time_is_foretold_from_batches() -> None:
    """The speed is that of the last batches."""
    pace = Pace(BatchLimits())
    assert pace.seconds(100) == 0
    assert pace.retry_s(10**9) == 1
    for number in range(100):
        pace.note(1000, 10, number, number + 2)
    assert pace.seconds(500) == pytest.approx(1.0)
    assert pace.retry_s(1200) == 3
    assert pace.retry_s(10**9) == 60
    for number in range(100):
        pace.note(1000, 10, number, number + 0.5)
    assert pace.seconds(500) == pytest.approx(0.25, rel=0.01)


def test_batches_shrink_for_want_of_memory_and_grow_again() -> None:
    """What did not fit is not tried again at once, but some time."""
    pace = Pace(BatchLimits(batch_tokens=1000))
    pace.lower(800)
    assert pace.most_tokens(10) == 400
    for _ in range(200):
        pace.note(400, 10, 0.0, 0.01)
    assert pace.most_tokens(10) == 1000
    for _ in range(20):
        pace.lower(1)
    assert pace.most_tokens(10) == 1


def test_long_batches_wait_for_short_items_that_may_come() -> None:
    """A long batch behind short ones is held for a part of its time, a few milliseconds at most."""
    pace = Pace(BatchLimits(padding_tokens=64, batch_tokens=1024))
    assert pace.hold_until(512, 0.0, 1) == 0
    pace.note(100, 10, 49.999, 50.0)
    assert pace.seconds(512) == pytest.approx(0.00512)
    assert pace.hold_until(40, 49.9, 100) == 0
    assert pace.hold_until(512, 49.9, 100) == pytest.approx(50.0 + 0.00512 / 4)
    assert pace.hold_until(51_200, 49.9, 100) == pytest.approx(50.005)
    assert pace.most_tokens(512) == 256
    assert pace.most_tokens(40) == 1024


def test_a_long_batch_is_held_no_longer_than_its_share() -> None:
    """What has waited for its share of the model's time is held no more; nor is what comes behind it."""
    pace = Pace(BatchLimits())
    pace.note(100, 10, 49.999, 50.0)
    assert pace.hold_until(512, 49.9, 3) < 50
    pace.note(512, 512, 50.005, 50.01)
    assert pace.hold_until(512, 50.0, 100) == 0
