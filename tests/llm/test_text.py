"""Tokens to text: characters stay whole and stop strings are found, however the text is cut."""

from hypothesis import given
from hypothesis import strategies as st

from modelrack.llm.text import StopFinder, StopStrings, TextDecoder, TokenTexts

VOCABULARY = [bytes((number,)) for number in range(256)] + [
    b"",
    b"hello",
    "ü".encode(),
    "日本".encode(),
    b"\xe6\x97",
    b" a",
]


def decode(pieces: list[list[int]]) -> tuple[str, list[str]]:
    """Return the whole text, and what came out of each piece."""
    decoder = TextDecoder(TokenTexts(VOCABULARY.__getitem__))
    found = [decoder.feed(piece) for piece in pieces]
    return "".join([*found, decoder.finish()]), found


def cut(items: list[int], borders: list[int]) -> list[list[int]]:
    """Return the items in pieces that end at some borders."""
    places = sorted({border % (len(items) + 1) for border in borders})
    return [items[start:end] for start, end in zip([0, *places], [*places, len(items)], strict=True)]


tokens = st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=30)
borders = st.lists(st.integers(0, 100), max_size=6)


@given(tokens, borders)
def test_any_cutting_gives_the_text_of_all_bytes(ids: list[int], places: list[int]) -> None:
    data = b"".join(VOCABULARY[token] for token in ids)
    assert decode(cut(ids, places))[0] == data.decode("utf-8", "replace")
    assert decode([[token] for token in ids])[0] == data.decode("utf-8", "replace")


def test_a_character_comes_out_when_it_is_complete() -> None:
    euro = list("€".encode())
    assert decode([[65], *([byte] for byte in euro), [66]])[1] == ["A", "", "", "€", "B"]


def test_broken_bytes_come_out_as_soon_as_they_cannot_be_mended() -> None:
    assert decode([[0xE2], [0x82], [65], [0xFF], [66]])[1] == ["", "", "\ufffdA", "\ufffd", "B"]
    text, found = decode([[65], [0xE2, 0x82]])
    assert (text, found) == ("A\ufffd", ["A", ""])


def search(strings: list[str], pieces: list[str]) -> tuple[str, bool]:
    """Return the text up to the stop string, and whether there is one."""
    finder = StopFinder(StopStrings(strings))
    found = []
    for piece in pieces:
        found.append(finder.feed(piece))
        if finder.found:
            return "".join(found), True
    return "".join([*found, finder.finish()]), False


def first_end(text: str, strings: list[str]) -> tuple[str, bool]:
    """Return the same, looked for in the plainest way."""
    for end in range(1, len(text) + 1):
        hits = [string for string in strings if text[:end].endswith(string)]
        if hits:
            return text[: end - max(map(len, hits))], True
    return text, False


letters = st.text("ab\u20ac", max_size=25)


@given(letters, st.lists(st.text("ab\u20ac", min_size=1, max_size=5), min_size=1, max_size=4), borders)
def test_stop_strings_are_found_however_the_text_is_cut(text: str, strings: list[str], places: list[int]) -> None:
    expected = first_end(text, strings)
    ends = sorted({place % (len(text) + 1) for place in places})
    pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    assert search(strings, pieces) == expected
    assert search(strings, list(text)) == expected
    assert search(strings, [text]) == expected


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    finder = StopFinder(StopStrings(["###", "STOP"]))
    assert [finder.feed(piece) for piece in ("a#", "#b", "ST", "O", "x", "##")] == ["a", "##b", "", "", "STOx", ""]
    assert finder.finish() == "##"
    assert not finder.found


def test_a_long_stop_string_that_nearly_comes_again_and_again_takes_linear_time() -> None:
    """Held back text that was searched anew with each character would take 10^10 steps here."""
    finder = StopFinder(StopStrings(["a" * 100_000 + "b"]))
    length = sum(len(finder.feed("a")) for _ in range(150_000))
    assert length == 50_000
    assert len(finder.finish()) == 100_000
