"""From texts to the tokens that a model reads: specials, limits, cuts; pure, with a vocabulary of letters."""

from collections.abc import Sequence

import pytest

from modelrack.batching import Prepared
from modelrack.embedding import EmbeddingWork
from modelrack.errors import ModelrackError
from modelrack.pooling.texts import Marks, Pair, PairTexts, TextTokens, find_marks, fit
from modelrack.rerank import RerankWork

BEGIN, END, BETWEEN = 1000, 1001, 1002


def encode(texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
    """Return a token for each letter; spaces have none."""
    return [[ord(letter) for letter in text if letter != " "] for text in texts]


def marked(text: str) -> list[int]:
    return [BEGIN, *encode([text], parse_special=True)[0], END]


def prepared(found: object) -> Prepared[list[int]]:
    assert isinstance(found, Prepared), found
    return found


def pair(found: object) -> Pair:
    assert isinstance(found, Prepared), found
    assert isinstance(found.payload, Pair) and found.tokens == len(found.payload.tokens)
    return found.payload


def error(found: object) -> ModelrackError:
    assert isinstance(found, ModelrackError)
    return found


def test_marks_are_found_out() -> None:
    assert find_marks(encode, marked) == Marks((BEGIN,), (END,))
    assert find_marks(encode, lambda text: encode([text], parse_special=True)[0]) == Marks((), ())


def test_inputs_get_marks_and_prompts_and_ids_do_not() -> None:
    texts = TextTokens(encode, Marks((BEGIN,), (END,)), 6)
    found = texts.prepare([EmbeddingWork(0, "bc", "a"), EmbeddingWork(1, [7, 8])])
    assert [prepared(one).payload for one in found] == [[BEGIN, 97, 98, 99, END], [7, 8]]
    assert [prepared(one).tokens for one in found] == [5, 2]


def test_what_is_too_long_is_cut_or_an_error_of_its_own() -> None:
    texts = TextTokens(encode, Marks((BEGIN,), (END,)), 6)
    fine, long, cut, ids = texts.prepare(
        [
            EmbeddingWork(0, "abcd"),
            EmbeddingWork(1, "abcde"),
            EmbeddingWork(2, "abcdefg", truncate=True),
            EmbeddingWork(3, list(range(9)), truncate=True),
        ]
    )
    assert prepared(fine).tokens == 6
    assert (error(long).param, error(long).details) == ("input.1", {"max_tokens": 6, "tokens": 7})
    assert prepared(cut).payload == [BEGIN, 97, 98, 99, 100, END]
    assert prepared(ids).payload == list(range(6))


def test_an_input_without_tokens_is_an_error() -> None:
    (found,) = TextTokens(encode, Marks((), ()), 6).prepare([EmbeddingWork(4, "  ")])
    assert error(found).param == "input.4"


def pairs(max_tokens: int = 10) -> PairTexts:
    return PairTexts(encode, max_tokens, before=[BEGIN], between=[BETWEEN], after=[END])


def test_pairs_have_marks_around_and_between() -> None:
    (found,) = pairs().prepare([RerankWork(0, "ab", "cd")])
    assert pair(found).tokens == [BEGIN, 97, 98, BETWEEN, 99, 100, END]


def test_documents_are_cut_beside_the_query() -> None:
    (found,) = pairs().prepare([RerankWork(0, "ab", "cdefghijkl")])
    assert pair(found).document == "cdefg" and len(pair(found).tokens) == 10


def test_a_document_has_the_length_that_the_request_says() -> None:
    (found,) = pairs().prepare([RerankWork(0, "ab", "c d e f", max_document_tokens=2)])
    assert pair(found).document.split() == ["c", "d"]


def test_what_does_not_fit_is_an_error_of_its_own() -> None:
    long, query, fine = pairs().prepare(
        [
            RerankWork(3, "ab", "cdefghijkl", truncate=False),
            RerankWork(1, "abcdefghi", "c"),
            RerankWork(2, "ab", "c", truncate=False),
        ]
    )
    assert (error(long).param, error(long).details) == ("documents.3", {"max_tokens": 10, "tokens": 15})
    assert error(query).param == "query"
    assert pair(fine).document == "c"


def test_a_template_is_filled() -> None:
    texts = PairTexts(encode, 20, template="q:{query} d:{document}!")
    found, cut = texts.prepare([RerankWork(0, "ab", "cd"), RerankWork(1, "ab", "x" * 50)])
    assert pair(found).tokens == encode(["q:ab d:cd!"], parse_special=True)[0]
    assert pair(cut).document == "x" * 13 and pair(cut).tokens[-1] == ord("!")


def test_a_pair_without_tokens_is_an_error() -> None:
    (found,) = PairTexts(encode, 10).prepare([RerankWork(5, " ", " ")])
    assert error(found).param == "documents.5"


@pytest.mark.parametrize("most", [0, 1, 2, 37, 99, 100, 1000])
@pytest.mark.parametrize("text", ["x" * 100, "x   " * 40, "     x" * 30, ""])
def test_the_most_of_a_text_that_fits_is_kept(text: str, most: int) -> None:
    def count(part: str) -> int:
        return len(encode([part], parse_special=False)[0])

    kept = fit(text, most, count)
    assert text.startswith(kept) and count(kept) == min(most, count(text))


def test_a_text_is_cut_in_few_steps() -> None:
    calls = []

    def count(part: str) -> int:
        calls.append(part)
        return len(part.split())

    text = "word and  another   one. " * 4000
    assert count(fit(text, 512, count)) == 512
    assert len(calls) < 20


@pytest.mark.parametrize(
    ("most", "kept"), [(1, "honey"), (2, "honey never"), (4, "honey never spoils"), (9, "honey never spoils.")]
)
def test_words_are_cut_only_where_their_tokens_are(most: int, kept: str) -> None:
    tokens = {"honey": 1, "hone": 2, "never": 1, "spoils": 2}

    def count(part: str) -> int:
        words = part.replace(".", " .").split()
        return sum(tokens.get(word, 1) for word in words)

    assert fit("honey never spoils.", most, count) == kept
