"""Who is computed with whom, and for how long."""

from typing import Any

import torch

from modelrack.llm.contract import Generation
from modelrack_llm_transformers.batches import Batches, Prepared
from modelrack_llm_transformers.slots import Job, Slot
from modelrack_llm_transformers.turns import ALONE, Line, Turn

CPU = torch.device("cpu")
BATCHES = Batches(CPU, torch.float32, pad_id=0)


def slot(length: int = 4, limit: int = 10, *, lora: str | None = None, media: Prepared | None = None) -> Slot:
    prompt = list(range(1, length + 1))
    generation = Generation(prompt=prompt, lora=lora)
    listener: Any = None
    job = Job(
        generation,
        listener,
        make_slot=Slot,
        prompt=prompt,
        limit=limit,
        ends=frozenset(),
        wake=lambda job: None,
        media=media,
    )
    return job.slots[0]


def line(*slots: Slot, batches: Batches = BATCHES, most: int = 4, room: int | None = None) -> Line:
    made = Line(batches.key, batches.length, most=most, room=room)
    made.enter(slots)
    return made


def long_turn(made: Line) -> Turn:
    """Return a turn that began a second ago, and has gone on for long since."""
    turn = made.next_turn(0.0)
    turn.read, turn.steps = 1.0, 100
    return turn


def test_a_turn_takes_the_first_and_those_of_its_kind() -> None:
    a, b, c, d = slot(), slot(lora="x"), slot(9), slot(lora="x")
    made = line(a, b, c, d)
    assert made.next_turn(0.0).slots == [a, c]
    assert made.next_turn(0.0).slots == [b, d]
    assert len(made) == 0


def test_a_turn_takes_no_more_than_there_is_room_for() -> None:
    slots = [slot() for _ in range(6)]
    assert line(*slots).next_turn(0.0).slots == slots[:4]
    # Each may come to 14 tokens.
    assert line(*slots, room=28).next_turn(0.0).slots == slots[:2]
    assert line(*slots, room=5).next_turn(0.0).slots == slots[:1]
    long, short = slot(30, 30), slot(1, 4)
    assert line(short, long, slots[0], room=60).next_turn(0.0).slots == [short, slots[0]]


def test_media_of_other_shapes_are_computed_apart() -> None:
    def image(side: int, count: int = 1) -> Slot:
        return slot(media=Prepared(tokens=[1], tensors={"pixel_values": torch.zeros(count, 3, side, side)}))

    a, b, c, text = image(8), image(16), image(8, 2), slot()
    made = line(a, b, c, text)
    assert made.next_turn(0.0).slots == [a, c]
    assert made.next_turn(0.0).slots == [b]
    assert made.next_turn(0.0).slots == [text]


def test_what_cannot_be_padded_is_computed_with_what_is_as_long() -> None:
    batches = Batches(CPU, torch.float32, pad_id=0, pads=False)
    a, b, c = slot(4), slot(5), slot(4)
    assert line(a, b, c, batches=batches).next_turn(0.0).slots == [a, c]


def test_a_turn_ends_when_nobody_goes_on() -> None:
    made = line(slot(), slot())
    turn = made.next_turn(0.0)
    assert not made.is_over(turn, 0.0)
    for one in turn.slots:
        one.state = "over"
    assert made.is_over(turn, 0.0)


def test_a_turn_is_cut_short_for_others_once_reading_again_is_worth_it() -> None:
    made = line(slot(), slot())
    turn = long_turn(made)
    assert not made.is_over(turn, 100.0), "nobody waits"
    made.enter([slot()])
    assert not made.is_over(turn, 4.9)
    assert made.is_over(turn, 5.1)
    turn.steps = 1
    assert not made.is_over(turn, 5.1)


def test_a_full_turn_is_not_cut_short_for_those_who_find_no_place() -> None:
    made = line(*[slot() for _ in range(4)])
    turn = long_turn(made)
    made.enter([slot()])
    assert not made.is_over(turn, 100.0)
    turn.slots[0].state = "over"
    assert made.is_over(turn, 100.0)


def test_a_full_turn_is_cut_short_for_those_of_another_kind() -> None:
    made = line(*[slot() for _ in range(4)])
    turn = long_turn(made)
    other = slot(lora="x")
    made.enter([other])
    assert made.is_over(turn, 100.0)
    made.take_back(turn)
    assert made.next_turn(0.0).slots == [other]
    assert len(made) == 4


def test_a_turn_is_cut_short_when_half_of_it_is_over() -> None:
    made = line(*[slot() for _ in range(4)])
    turn = long_turn(made)
    turn.slots[0].state = "over"
    assert not made.is_over(turn, 100.0)
    turn.slots[1].state = "over"
    assert made.is_over(turn, 100.0)


def test_those_that_go_on_come_before_those_that_wait_to_join_them() -> None:
    first, second = slot(), slot()
    made = line(first, most=1)
    turn = long_turn(made)
    made.enter([second])
    made.take_back(turn)
    assert made.next_turn(0.0).slots == [first]
    assert made.next_turn(0.0).slots == [second]


def test_those_that_grow_apart_take_turns() -> None:
    """Where prompts cannot be padded, what goes on is longer than what waits: it must not keep that out for ever."""
    batches = Batches(CPU, torch.float32, pad_id=0, pads=False)
    first, second = slot(), slot()
    made = line(first, batches=batches)
    turn = long_turn(made)
    first.tokens += [1] * 5
    made.enter([second])
    assert made.is_over(turn, 100.0)
    made.take_back(turn)
    assert made.next_turn(0.0).slots == [second]


def test_who_is_computed_alone_takes_turns_with_the_others() -> None:
    lone, other = slot(), slot()
    lone.place = ALONE
    made = line(lone, other)
    turn = long_turn(made)
    assert turn.slots == [lone]
    assert made.is_over(turn, 100.0)
    made.take_back(turn)
    assert made.next_turn(0.0).slots == [other]
    assert made.next_turn(0.0).slots == [lone]


def test_rows_are_filled_up_on_the_left() -> None:
    built = BATCHES.build([slot(3), slot(5)])
    assert built["input_ids"].tolist() == [[0, 0, 1, 2, 3], [1, 2, 3, 4, 5]]
    assert built["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]


def test_encoders_read_prompts_and_decoders_what_was_written() -> None:
    batches = Batches(CPU, torch.float32, pad_id=0, start_id=7)
    rows = [slot(2), slot(3)]
    for row in rows:
        row.tokens += [8, 9]
        row.generated = 2
    built = batches.build(rows)
    assert built["input_ids"].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert built["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert built["decoder_input_ids"].tolist() == [[7, 8, 9], [7, 8, 9]]
    assert batches.key(slot()) != batches.key(rows[0])


def test_tensors_of_images_are_put_together() -> None:
    def image(value: float) -> Slot:
        return slot(
            media=Prepared(
                tokens=[1],
                tensors={"pixel_values": torch.full((1, 2), value), "sizes": torch.tensor([[int(value)]])},
                by_token={"token_type_ids": torch.tensor([0, 1, 1, 0])},
            )
        )

    rows = [image(1.0), image(2.0)]
    rows[1].tokens += [5]
    built = Batches(CPU, torch.float16, pad_id=0).build(rows)
    assert built["pixel_values"].dtype == torch.float16
    assert built["pixel_values"].tolist() == [[1.0, 1.0], [2.0, 2.0]]
    assert built["sizes"].tolist() == [[1], [2]]
    assert built["token_type_ids"].tolist() == [[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
