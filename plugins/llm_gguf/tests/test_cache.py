"""Cells are counted right whoever shares them, and the longest beginning is found."""

import random
from typing import Any

import pytest

from modelrack_llm_gguf.cache import Cells, Idle, PrefixCache, Span, common_prefix


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 40, 79, 80, 81, 500])
def test_the_common_prefix_is_as_long_as_it_is(length: int) -> None:
    first = list(range(500))
    second = first[:length] + [-1] * (600 - length)
    assert common_prefix(first, second, 1000) == length
    assert common_prefix(second, first, 1000) == length
    assert common_prefix(first, second, 12) == min(length, 12)


def test_shared_cells_count_once() -> None:
    cells = Cells(100)
    first = cells.open()
    cells.grow(first, 30)
    second = cells.fork(first, 30, 20)
    cells.grow(second, 5)
    third = cells.fork(second, 25, 22)
    assert (cells.used, cells.free, cells.idle) == (35, 65, 0)
    cells.close(first)
    assert cells.used == 25
    cells.close(second)
    assert cells.used == 22
    cells.close(third)
    assert (cells.used, cells.idle) == (0, 0)


def test_cells_that_nobody_runs_on_are_idle() -> None:
    cells = Cells(100)
    first = cells.open()
    cells.grow(first, 30)
    cells.retire(first)
    assert cells.idle == 30
    second = cells.fork(first, 30, 10)
    assert (cells.used, cells.idle) == (30, 20)
    cells.free_idle(first)
    assert (cells.used, cells.idle) == (10, 0)
    cells.retire(second)
    assert cells.idle == 10


class Book:
    """Counts the same cells in the simplest way: each is a number, and sequences are lists of them."""

    def __init__(self) -> None:
        self.next = 0

    def new(self, count: int) -> list[int]:
        self.next += count
        return list(range(self.next - count, self.next))


@pytest.mark.parametrize("seed", range(20))
def test_any_history_of_forks_and_ends_is_counted_right(seed: int) -> None:
    rng = random.Random(seed)
    cells, book = Cells(10_000), Book()
    live: list[tuple[Span, list[int]]] = []
    idle: list[tuple[Span, list[int]]] = []
    for _ in range(300):
        match rng.choice(["open", "fork", "grow", "shrink", "retire", "close", "free"]):
            case "open":
                live.append((cells.open(), []))
            case "fork" if live or idle:
                span, held = rng.choice(live + idle)
                length = rng.randint(0, len(held))
                live.append((cells.fork(span, len(held), length), held[:length]))
            case "grow" if live:
                span, held = rng.choice(live)
                count = rng.randint(1, 9)
                cells.grow(span, count)
                held.extend(book.new(count))
            case "shrink" if live:
                span, held = rng.choice(live)
                if span.length:
                    cells.grow(span, -1)
                    held.pop()
            case "retire" if live:
                one = live.pop(rng.randrange(len(live)))
                cells.retire(one[0])
                idle.append(one)
            case "close" if live:
                cells.close(live.pop(rng.randrange(len(live)))[0])
            case "free" if idle:
                cells.free_idle(idle.pop(rng.randrange(len(idle)))[0])
        running = {cell for _, held in live for cell in held}
        used = running | {cell for _, held in idle for cell in held}
        assert (cells.used, cells.idle) == (len(used), len(used - running))


def idle_of(cache: PrefixCache, cells: Cells, tokens: list[int], slot: int, key: Any = None) -> Idle:
    span = cells.open()
    cells.grow(span, len(tokens))
    cells.retire(span)
    one = Idle(key, tokens, slot, span)
    cache.keep(one)
    return one


def test_the_longest_beginning_is_found_but_the_last_token_is_left() -> None:
    cells, cache = Cells(1000), PrefixCache(1000, 8)
    idle_of(cache, cells, [1, 2, 3, 4, 5, 6], 0)
    longer = idle_of(cache, cells, [1, 2, 3, 4, 5, 9, 9, 9], 1)
    found = cache.find(None, [1, 2, 3, 4, 5, 9, 9, 7], [])
    assert found is not None
    assert (found.length, found.idle) == (7, longer)
    found = cache.find(None, [1, 2, 3, 4, 5, 6], [])
    assert found is not None
    assert found.length == 5
    assert cache.find(None, [1, 2, 3, 8], []) is None


def test_running_sequences_are_looked_at_too_as_far_as_they_are_computed() -> None:
    cells, cache = Cells(1000), PrefixCache(1000, 8)
    idle_of(cache, cells, [1, 2, 3, 4, 5], 0)
    span = cells.open()
    found = cache.find(None, list(range(1, 20)), [(list(range(1, 30)), 12, 7, span)])
    assert found is not None
    assert (found.length, found.source, found.idle) == (12, 7, None)


def test_keys_keep_beginnings_apart() -> None:
    cells, cache = Cells(1000), PrefixCache(1000, 8)
    idle_of(cache, cells, [1, 2, 3, 4, 5], 0, key=("a", None))
    assert cache.find(("b", None), [1, 2, 3, 4, 5, 6], []) is None
    assert cache.find(("a", None), [1, 2, 3, 4, 5, 6], []) is not None


def test_where_only_the_whole_can_be_taken_no_part_is() -> None:
    cells, cache = Cells(1000), PrefixCache(1000, 8)
    idle_of(cache, cells, [1, 2, 3, 4, 5, 6], 0)
    idle_of(cache, cells, [1, 2, 3, 4], 1)
    found = cache.find(None, [1, 2, 3, 4, 5, 7, 8], [], whole=True)
    assert found is not None
    assert (found.length, found.source) == (4, 1)


def test_a_sequence_makes_its_own_beginnings_superfluous_and_the_oldest_goes_first() -> None:
    cells, cache = Cells(1000), PrefixCache(1000, 8)
    short = idle_of(cache, cells, [1, 2, 3, 4], 0)
    other = idle_of(cache, cells, [9, 9, 9, 9], 1)
    span = cells.open()
    assert cache.keep(Idle(None, [1, 2, 3, 4, 5], 2, span)) == [short]
    cache.touch(other)
    first = cache.evict()
    assert first is not None
    assert first.slot == 2
    assert cache.evict(other) is None
    assert cache.evict() is other
    assert cache.evict() is None
