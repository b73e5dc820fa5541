"""The order of what waits: fair among requests, alike in length, and none for ever."""

from hypothesis import given
from hypothesis import strategies as st

from modelrack.batching.contract import Prepared
from modelrack.batching.queue import FairQueue, Flow, Item


def fill(queue: FairQueue[Flow], lengths: list[int], *, group: object = None) -> Flow:
    """Add a request with items of these lengths."""
    flow = Flow()
    queue.add(flow, [Item(flow, index, Prepared(None, length, group)) for index, length in enumerate(lengths)])
    return flow


def drain(queue: FairQueue[Flow], tokens: int = 64, items: int = 8, padding: int = 0) -> list[list[Item[Flow]]]:
    """Take all batches."""
    batches = []
    while batch := queue.take(tokens, items, padding):
        batches.append(batch)
    return batches


def lengths(batch: list[Item[Flow]]) -> list[int]:
    """Return the lengths of a batch's items."""
    return [item.prepared.tokens for item in batch]


def test_a_batch_is_of_like_length() -> None:
    """Short and long items are kept apart, and each batch is sorted."""
    queue: FairQueue[Flow] = FairQueue()
    fill(queue, [40, 5, 6, 41, 5, 44, 6])
    assert sorted(lengths(batch) for batch in drain(queue, tokens=200)) == [[5, 5, 6, 6], [40, 41, 44]]


def test_little_padding_joins_what_differs() -> None:
    """Items of any length share a batch where their padding costs less than another batch would."""
    queue: FairQueue[Flow] = FairQueue()
    fill(queue, [40, 5, 6])
    assert [lengths(batch) for batch in drain(queue, tokens=200, padding=100)] == [[5, 6, 40]]


def test_a_small_request_passes_a_large_one() -> None:
    """A request of 2,000 texts does not hold up one that comes after it."""
    queue: FairQueue[Flow] = FairQueue()
    fill(queue, [8] * 2000)
    queue.take(64, 8, 0)
    small = fill(queue, [8])
    assert small in {item.flow for item in queue.take(64, 8, 0)}


def test_a_short_item_passes_long_ones() -> None:
    """What is short goes before what is long and came first."""
    queue: FairQueue[Flow] = FairQueue()
    for _ in range(10):
        fill(queue, [512])
    short = fill(queue, [8])
    assert [item.flow for item in queue.take(512, 8, 0)] == [short]


def test_a_long_item_is_not_passed_for_ever() -> None:
    """Short items that never end let a long one pass, after about as many tokens of each client."""
    queue: FairQueue[Flow] = FairQueue()
    long = fill(queue, [512])
    turns = 0
    while len(long_items := [item for item in _turn(queue) if item.flow is long]) == 0:
        turns += 1
        assert turns < 512
    assert turns > 1
    assert len(long_items) == 1


def _turn(queue: FairQueue[Flow]) -> list[Item[Flow]]:
    """Have four clients ask for something short, and run one batch."""
    for _ in range(4):
        fill(queue, [8])
    return queue.take(512, 4, 0)


def test_groups_never_share_a_batch() -> None:
    """Items of different groups are run apart."""
    queue: FairQueue[Flow] = FairQueue()
    fill(queue, [8, 8], group="a")
    fill(queue, [8, 8], group="b")
    assert [{item.prepared.group for item in batch} for batch in drain(queue)] == [{"a"}, {"b"}]


def test_a_longer_item_than_the_limit_is_alone() -> None:
    """The limit of a batch holds nothing up."""
    queue: FairQueue[Flow] = FairQueue()
    fill(queue, [100, 100])
    assert [lengths(batch) for batch in drain(queue, tokens=64)] == [[100], [100]]


def test_what_nobody_wants_holds_no_memory() -> None:
    """Items of requests that have left are cleared away before their turn comes."""
    queue: FairQueue[Flow] = FairQueue()
    fill(queue, [8])
    for _ in range(50):
        queue.drop(fill(queue, [8] * 500))
    held = sum(map(len, queue._heaps.values()))
    assert len(queue) == 1
    assert held < 3000
    assert len(drain(queue)) == 1


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.lists(st.integers(1, 100), min_size=1, max_size=20), st.booleans()),
            st.tuples(st.just("take"), st.integers(1, 300), st.integers(1, 10)),
            st.tuples(st.just("drop"), st.integers(0, 20), st.none()),
        ),
        max_size=60,
    )
)
def test_each_item_comes_once(steps: list[tuple[str, object, object]]) -> None:
    """Whatever comes, leaves and is taken: each wanted item comes once, and batches keep to their limits."""
    queue: FairQueue[Flow] = FairQueue()
    flows: list[Flow] = []
    wanted: set[tuple[Flow, int]] = set()

    def take(most_tokens: int, most_items: int) -> bool:
        batch = queue.take(most_tokens, most_items, 0)
        sizes = lengths(batch)
        assert sizes == sorted(sizes)
        assert len({item.prepared.group for item in batch}) <= 1
        assert len(batch) <= most_items
        assert len(batch) <= 1 or sizes[-1] * len(batch) <= most_tokens
        assert not any(item.flow.is_over for item in batch)
        taken = {(item.flow, item.index) for item in batch}
        assert len(taken) == len(batch)
        assert taken <= wanted
        wanted.difference_update(taken)
        return bool(batch)

    for kind, first, second in steps:
        if kind == "add" and isinstance(first, list):
            flows.append(fill(queue, first, group=second))
            wanted |= {(flows[-1], index) for index in range(len(first))}
        elif kind == "take" and isinstance(first, int) and isinstance(second, int):
            take(first, second)
        elif isinstance(first, int) and first < len(flows):
            queue.drop(flows[first])
            wanted = {pair for pair in wanted if pair[0] is not flows[first]}
        assert len(queue) == len(wanted)
    while take(128, 8):
        pass
    assert not wanted
    assert not queue._heaps
    assert all(flow.queued == 0 for flow in flows)


def test_the_first_and_the_shortest() -> None:
    """What comes next is known before it is taken."""
    queue: FairQueue[Flow] = FairQueue()
    assert queue.first() is None
    assert queue.shortest() is None
    fill(queue, [100])
    fill(queue, [90, 12])
    queue.drop(fill(queue, [1]))
    first, shortest = queue.first(), queue.shortest()
    assert first is not None
    assert shortest is not None
    assert first.prepared.tokens == 90
    assert shortest.prepared.tokens == 12
    assert queue.take(200, 1, 0) == [first]
    assert lengths(queue.take(200, 1, 0)) == [100]
