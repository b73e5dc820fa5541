"""Restart delay, stalls, placement and progress."""

import pytest

from modelrack.errors import BadRequest, InsufficientMemory
from modelrack.hooks import Accelerator, Machine, MemoryEstimate
from modelrack.lifecycle.policy import (
    StartLimits,
    check_room,
    less_reserved,
    overall_progress,
    place,
    reserve,
    restart_delay_s,
    start_verdict,
)
from modelrack.lifecycle.state import MOVES, State, can_move, xinference_status


def machine(*free: int) -> Machine:
    devices = tuple(
        Accelerator(index=index, kind="cuda", name="x", memory_total_bytes=100, memory_free_bytes=amount)
        for index, amount in enumerate(free)
    )
    return Machine(
        platform="linux",
        architecture="x86_64",
        cores=2,
        memory_total_bytes=100,
        memory_free_bytes=50,
        accelerators=devices,
    )


def test_restart_delays_grow_and_are_bounded() -> None:
    delays = [restart_delay_s(failures) for failures in range(1, 10)]
    assert delays[0] <= 0.1
    assert delays == sorted(delays)
    assert delays[-1] == 30.0


def test_progress_extends_a_start_and_the_cap_ends_it() -> None:
    limits = StartLimits(stall_s=10, limit_s=60)
    assert start_verdict(9, 0, 0, limits) is None
    assert "MODELRACK_START_STALL_S" in (start_verdict(11, 0, 0, limits) or "")
    assert start_verdict(55, 0, 50, limits) is None
    assert "MODELRACK_START_LIMIT_S" in (start_verdict(61, 0, 60, limits) or "")


@pytest.mark.parametrize(
    ("free", "n_gpu", "gpu_idx", "chosen"),
    [
        ((), "auto", None, ()),
        ((), None, None, ()),
        ((5, 9), "auto", None, (1,)),
        ((5, 9), None, None, ()),
        ((5, 9), 0, None, ()),
        ((5, 9, 7), 2, None, (1, 2)),
        ((5, 9), "auto", [0], (0,)),
        ((5, 9), 1, [1, 0], (1, 0)),
    ],
)
def test_place(
    free: tuple[int, ...], n_gpu: int | str | None, gpu_idx: list[int] | None, chosen: tuple[int, ...]
) -> None:
    assert place(machine(*free), n_gpu, gpu_idx) == chosen


@pytest.mark.parametrize(
    ("n_gpu", "gpu_idx", "param"), [(3, None, "n_gpu"), ("auto", [7], "gpu_idx"), (-1, None, "n_gpu")]
)
def test_place_refuses_what_is_not_there(n_gpu: int | str, gpu_idx: list[int] | None, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        place(machine(1, 1), n_gpu, gpu_idx)
    assert caught.value.param == param


def test_a_download_is_most_of_a_launch() -> None:
    assert overall_progress(None, 0.5) == 0.5
    assert overall_progress(0.5, 0) == pytest.approx(0.4)
    assert overall_progress(1, 1) == pytest.approx(1)


def test_an_environment_counts_like_a_download() -> None:
    assert overall_progress(None, 0, 0.5) == pytest.approx(0.4)
    assert overall_progress(0.0, 0, 1) == pytest.approx(4 / 9)
    assert overall_progress(1, 1, 1) == pytest.approx(1)


def test_what_is_still_loading_counts_as_taken() -> None:
    two = MemoryEstimate(weights_bytes=6, cache_bytes=1, overhead_bytes=1, host_bytes=5)
    reserved = reserve([((0, 1), two), ((1,), two), ((), two)])
    assert reserved == {0: 4, 1: 12, None: 5 + 5 + 13}
    assert place(machine(9, 10), "auto", None) == (1,)
    assert place(machine(9, 10), "auto", None, reserved) == (0,)
    assert place(machine(9, 10), "auto", [1], reserved) == (1,)
    left = less_reserved(machine(9, 10), reserved)
    assert [device.memory_free_bytes for device in left.accelerators] == [5, 0] and left.memory_free_bytes == 27
    assert less_reserved(machine(9), {}) == machine(9)


@pytest.mark.parametrize(
    ("need", "host", "chosen", "warning"),
    [
        (15, 0, (0, 1), None),
        (19, 0, (0, 1), "GPU 0, 1"),
        (8, 60, (1,), "main memory"),
        (40, 0, (), None),
        (51, 0, (), "main memory"),
        (5000, 5000, (), "main memory"),
    ],
)
def test_too_little_room_is_told(need: int, host: int, chosen: tuple[int, ...], warning: str | None) -> None:
    estimate = MemoryEstimate(weights_bytes=need, host_bytes=host)
    told = check_room(machine(5, 10), chosen, estimate, {})
    assert (told is None) if warning is None else (told is not None and warning in told)


def test_much_too_little_room_on_accelerators_is_refused_with_the_figures() -> None:
    estimate = MemoryEstimate(weights_bytes=9, cache_bytes=8)
    assert check_room(machine(12), (0,), estimate, {}) is not None
    assert check_room(machine(12), (0,), None, {0: 12}) is None
    with pytest.raises(InsufficientMemory, match=r"0\.0 GB on GPU 0") as caught:
        check_room(machine(12), (0,), estimate, {0: 1})
    assert caught.value.status == 400 and caught.value.code == "insufficient_memory" and caught.value.remedy


def test_every_state_has_moves_and_a_status() -> None:
    assert set(MOVES) == set(State)
    assert all(xinference_status(state) for state in State)
    assert can_move(State.READY, State.DRAINING)
    assert not can_move(State.STOPPED, State.READY)
