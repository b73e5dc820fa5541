"""What a loop that chooses tokens asks of a constraint: masks, accepting, forks, ways back, waiting for a mark."""

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from guided_rig import Tokens, prepare
from modelrack.errors import BadRequest, EngineError
from modelrack.llm.contract import Constraint
from modelrack.llm.guided import Constraints, Masks, Vocabulary
from modelrack.llm.guided.marks import Mark
from modelrack.llm.guided.vetting import Vetting
from modelrack.testing.hf import write_random_model
from modelrack.testing.walks import allowed, tokens_of, walk


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture(scope="module")
def vocabulary(tokens: Tokens) -> Vocabulary:
    return tokens.vocabulary()


@pytest.fixture(scope="module")
def constraints(vocabulary: Vocabulary) -> Iterator[Constraints]:
    made = Constraints(vocabulary)
    yield made
    made.close()


def test_only_what_fits_is_left_and_logits_are_not_changed_otherwise(tokens: Tokens, constraints: Constraints) -> None:
    matcher = prepare(constraints, "regex", "[ab]c?")
    logits = np.linspace(-1, 1, tokens.size, dtype=np.float32)
    before = logits.copy()
    assert matcher.mask(logits) is False
    (a,), (b,) = tokens.encode("a"), tokens.encode("b")
    left = np.flatnonzero(logits > -np.inf)
    assert set(left) == {a, b} and (logits[left] == before[left]).all()
    assert tokens.end not in left


def test_the_end_is_allowed_exactly_when_the_answer_is_complete(tokens: Tokens, constraints: Constraints) -> None:
    matcher = prepare(constraints, "regex", "ab+")
    for token in tokens.encode("a"):
        assert tokens.end not in (allowed(matcher) or ())
        matcher.accept(token)
    assert tokens.end not in (allowed(matcher) or ())
    (b,) = tokens.encode("b")
    matcher.accept(b)
    assert {tokens.end, b} <= set(allowed(matcher) or ())
    matcher.accept(tokens.end)
    assert allowed(matcher) is None


@pytest.mark.parametrize(("kind", "value"), [("choice", ("x",)), ("regex", "x"), ("json_schema", {"const": 5})])
def test_where_nothing_can_follow_the_answer_is_over_at_once(
    tokens: Tokens, constraints: Constraints, kind: str, value: Any
) -> None:
    matcher = prepare(constraints, kind, value)
    choices = allowed(matcher)
    assert choices is not None and len(choices) == 1
    matcher.accept(choices[0])
    logits = np.ones(tokens.size, dtype=np.float32)
    assert matcher.mask(logits) is True and (logits == 1).all()


def test_a_token_that_does_not_fit_fails_and_stays_failed(tokens: Tokens, constraints: Constraints) -> None:
    matcher = prepare(constraints, "regex", "a{5}")
    (x,) = tokens.encode("x")
    with pytest.raises(EngineError, match="could not be followed"):
        matcher.accept(x)
    with pytest.raises(EngineError, match="could not be followed"):
        matcher.mask(np.zeros(tokens.size, dtype=np.float32))
    # The next request with the same constraint is none the worse.
    assert walk(prepare(constraints, "regex", "a{5}"), 0)[1]


def test_an_end_too_early_fails(tokens: Tokens, constraints: Constraints) -> None:
    with pytest.raises(EngineError):
        prepare(constraints, "regex", "a{5}").accept(tokens.end)


def test_a_fork_goes_its_own_way(tokens: Tokens, constraints: Constraints) -> None:
    matcher = prepare(constraints, "regex", "a(?:b|cd)")
    (a,), (b,), (c,), (d,) = (tokens.encode(letter) for letter in "abcd")
    matcher.accept(a)
    other = matcher.fork()
    matcher.accept(b)
    other.accept(c)
    assert allowed(matcher) is None
    assert allowed(other) == [d]


def test_drafts_are_judged_without_being_taken(tokens: Tokens, constraints: Constraints) -> None:
    matcher = prepare(constraints, "regex", "abc?")
    a, b, c = (tokens.encode(letter)[0] for letter in "abc")
    before = allowed(matcher)
    assert matcher.valid([a, b, c]) == 3
    assert matcher.valid([a, b, tokens.end]) == 3
    assert matcher.valid([a, c]) == 1
    assert matcher.valid([c]) == matcher.valid([]) == 0
    assert allowed(matcher) == before


def test_accepted_tokens_can_be_taken_back(tokens: Tokens, constraints: Constraints) -> None:
    matcher = prepare(constraints, "json_schema", {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3})
    before = allowed(matcher)
    text = tokens.encode("[1, 2, 1]")
    for token in text:
        matcher.accept(token)
    assert allowed(matcher) is None
    matcher.rollback(len(text))
    assert allowed(matcher) == before
    for token in tokens.encode("[2"):
        matcher.accept(token)
    matcher.rollback(1)
    assert allowed(matcher) is not None


def test_an_answer_taken_back_may_have_its_end_behind_it(tokens: Tokens, constraints: Constraints) -> None:
    for pattern, more in (("ab+", True), ("ab", False)):
        matcher = prepare(constraints, "regex", pattern)
        for token in (*tokens.encode("a"), *tokens.encode("b"), tokens.end):
            matcher.accept(token)
        other = matcher.fork()
        matcher.rollback(1)
        assert (allowed(matcher) is not None) is more
        for one in (matcher, other):
            one.rollback(2 if one is matcher else 3)
            assert allowed(one) == tokens.encode("a")


def test_what_must_come_is_told_in_the_models_own_tokens(tokens: Tokens, constraints: Constraints) -> None:
    matcher = prepare(constraints, "regex", "bab!(?:x|y)")
    before = allowed(matcher)
    assert matcher.forced() == tokens.encode("bab!")
    assert allowed(matcher) == before
    for token in tokens.encode("bab!"):
        matcher.accept(token)
    assert matcher.forced() == []
    matcher.accept(*tokens.encode("x"))
    assert matcher.forced() == []
    waiting = prepare(constraints, "regex", "bab!", tuple(tokens.encode("zb")))
    assert waiting.forced() == []
    failed = prepare(constraints, "regex", "bab!")
    with pytest.raises(EngineError):
        failed.accept(*tokens.encode("x"))
    with pytest.raises(EngineError, match="could not be followed"):
        failed.forced()


# Masks


def test_each_sequence_has_its_row(tokens: Tokens, vocabulary: Vocabulary, constraints: Constraints) -> None:
    """In the memory of another, without a copy."""
    words = np.full((3, vocabulary.words), -1, dtype=np.int32)
    masks = Masks(vocabulary, 3, words)
    first, second = prepare(constraints, "regex", "[ab]"), prepare(constraints, "choice", ("c", "d"))
    assert (first.fill(masks, 0), second.fill(masks, 2)) == (False, False)
    assert tokens_of(words[0].view(np.uint32)) == [*tokens.encode("a"), *tokens.encode("b")]
    assert tokens_of(words[2].view(np.uint32)) == [*tokens.encode("c"), *tokens.encode("d")]
    assert (words[1] == -1).all()


def test_a_complete_answer_allows_the_end_alone(
    tokens: Tokens, vocabulary: Vocabulary, constraints: Constraints
) -> None:
    masks = Masks(vocabulary)
    for kind, value, text in (("regex", "ab", "ab"), ("json_schema", {"const": 5}, "5"), ("choice", ("ab",), "ab")):
        matcher = prepare(constraints, kind, value)
        for token in (letter for char in text for letter in tokens.encode(char)):
            matcher.accept(token)
        for _ in range(2):
            assert matcher.fill(masks) is True
            assert tokens_of(masks.words[0]) == [tokens.end]
            matcher.accept(tokens.end)


def test_logits_are_cut_as_the_mask_says(tokens: Tokens, vocabulary: Vocabulary, constraints: Constraints) -> None:
    masks = Masks(vocabulary)
    for after in ((), tuple(tokens.encode("zb"))):
        matcher = prepare(constraints, "regex", "[a-f]{2,}", after)
        for token in (*after, *tokens.encode("ace")):
            logits = np.zeros(tokens.size, dtype=np.float32)
            assert not matcher.fill(masks) and not matcher.mask(logits)
            assert tokens_of(masks.words[0]) == list(np.flatnonzero(logits == 0))
            matcher.accept(token)


def test_columns_without_a_token_are_never_allowed(tokens: Tokens) -> None:
    vocabulary = tokens.vocabulary(size=tokens.size + 70)
    made = Constraints(vocabulary)
    try:
        masks = Masks(vocabulary)
        matchers = [prepare(made, "regex", "(?s:.*)", after) for after in ((), tuple(tokens.encode("zb")))]
        for matcher, ends in zip(matchers, ([tokens.end], []), strict=True):
            assert not matcher.fill(masks)
            choices = tokens_of(masks.words[0])
            assert max(choices) < tokens.size and set(choices) >= {*tokens.encode("a"), *ends}
            logits = np.zeros(vocabulary.size, dtype=np.float32)
            assert not matcher.mask(logits) and list(np.flatnonzero(logits == 0)) == choices
    finally:
        made.close()


@pytest.mark.parametrize(
    "words",
    [np.zeros((2, 13), dtype=np.int64), np.zeros((2, 26), dtype=np.int32)[:, ::2], np.zeros((1, 13), dtype=np.int32)],
    ids=["width", "order", "shape"],
)
def test_memory_that_is_no_room_for_masks_is_refused(vocabulary: Vocabulary, words: Any) -> None:
    assert vocabulary.words == 13
    with pytest.raises(ValueError, match="32-bit words of shape"):
        Masks(vocabulary, 2, words)


# Reasoning first


@pytest.mark.parametrize("mark", ["</think>", "<|im_start|>", "aab"])
def test_a_constraint_begins_after_its_mark(tokens: Tokens, constraints: Constraints, mark: str) -> None:
    matcher = prepare(constraints, "regex", "[0-9]{3}", tuple(tokens.encode(mark)))
    for token in tokens.encode("I am not sure: a </thin < aa "):
        choices = allowed(matcher)
        assert choices is not None and token in choices and tokens.end not in choices
        matcher.accept(token)
    for token in tokens.encode(mark):
        matcher.accept(token)
    choices = allowed(matcher)
    assert choices is not None and re.fullmatch(b"[0-9]{10}", tokens.text_of(sorted(choices)))
    rest, is_over = walk(matcher, 1)
    assert is_over and re.fullmatch(b"[0-9]{3}", tokens.text_of(rest))


def test_no_token_reaches_behind_the_mark(tokens: Tokens, constraints: Constraints) -> None:
    """`ba` would end the mark and begin the answer, unseen by the constraint; it has to be `b` here."""
    matcher = prepare(constraints, "choice", ("no",), tuple(tokens.encode("zb")))
    (b,), (ba,), (z,) = tokens.encode("b"), tokens.encode("ba"), tokens.encode("z")
    assert ba in (allowed(matcher) or ())
    matcher.accept(z)
    choices = allowed(matcher)
    assert choices is not None and b in choices and ba not in choices
    assert matcher.valid([ba]) == 0
    assert matcher.valid([b, *tokens.encode("no"), tokens.end]) == 3
    assert matcher.valid([b, ba]) == 1
    matcher.rollback(1)
    assert ba in (allowed(matcher) or ())


def test_the_mark_is_found_wherever_it_begins() -> None:
    """As `bytes.find` would, for every text of three letters."""
    pieces = [b"a", b"b", b"ab", b"ba", b"aa", b"bab"]
    for text in (b"a", b"aab", b"abab", b"bb"):
        mark = Mark(text, pieces, np.zeros(1, dtype=np.uint32))
        for first in range(len(pieces)):
            for second in range(len(pieces)):
                for third in range(len(pieces)):
                    place: Any = mark.start
                    written = b""
                    for token in (first, second, third):
                        written += pieces[token]
                        assert place.allows(token) == (text not in written[:-1]), (text, written)
                        place = place.after(token)
                        if place is None:
                            break
                    assert (place is None) == (text in written), (text, written)


# What it costs, and what it takes


def test_equal_constraints_are_compiled_once(tokens: Tokens, constraints: Constraints) -> None:
    schemas = [{"enum": ["one", "two"]}, {"enum": ["one", "three"]}, {"enum": ["one", "two"]}]
    first, other, again = (prepare(constraints, "json_schema", schema)._compiled for schema in schemas)
    assert again is first and other is not first
    assert len(_vettings()) == 1, "one process tries them all"


def _vettings() -> set[int]:
    """Return the processes of this one in which constraints are tried."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if Vetting.__module__ in child.cmdline():
                found.add(child.pid)
    return found


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("regex", "(", "unclosed group"),
        ("regex", "\ud800", "surrogate"),
        ("choice", (), "nothing to choose"),
        ("choice", ("\ud800",), "surrogate"),
        ("json_schema", {"const": "\ud800"}, "surrogate"),
        ("json_schema", {"type": "string", "pattern": "\n" * 400_000}, "too big"),
        ("json_schema", {"const": "x" * 2_000_000}, "too long"),
        ("json_schema", {"properties": {f"p{n}": {} for n in range(500)}}, "properties"),
        ("grammar", "start: " + '"aa" ' * 20_000, "the most"),
        ("grammar", "\n".join(["start: r0", *(f'r{n}: "a" r{n + 1}' for n in range(3000)), 'r3000: "z"']), "memory"),
        ("regex", "(" * 5000 + ")" * 5000, "nest"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_constraint_or_too_much_of_one_is_refused(
    constraints: Constraints, kind: str, value: Any, words: str
) -> None:
    for _ in range(2):
        with pytest.raises(BadRequest, match=words) as caught:
            prepare(constraints, kind, value)
        assert caught.value.param == "guided_it" and len(caught.value.message) < 600


SLOW = "start: T\nT: " + " & ".join(f"/(.*x.{{{count}}}y.*)/" for count in range(40))


def test_what_takes_too_long_to_compile_is_refused_and_the_next_is_not() -> None:
    vetting = Vetting(compile_s=0.3)
    try:
        with pytest.raises(BadRequest, match=r"more than 0\.3 seconds to compile"):
            vetting.grammar(Constraint(kind="grammar", value=SLOW, field="guided_grammar"))
        assert vetting.grammar(Constraint(kind="regex", value="a", field="guided_regex"))
    finally:
        vetting.close()


def test_a_grammar_that_becomes_too_complex_on_the_way_fails(tokens: Tokens, constraints: Constraints) -> None:
    """It may be refused, or fail, or be followed to its end; it neither goes on for ever nor goes unconstrained."""
    grammar = 'start: s\ns: s s | s s s | "a" | "b" | ""'
    begin = time.thread_time()
    try:
        matcher = prepare(constraints, "grammar", grammar)
        for token in tokens.encode("ab" * 100):
            assert not matcher.mask(np.zeros(tokens.size, dtype=np.float32))
            matcher.accept(token)
    except (EngineError, BadRequest):
        pass
    assert time.thread_time() - begin < 10


def test_a_model_without_an_end_token_ends_where_nothing_can_follow(tokens: Tokens) -> None:
    made = Constraints(tokens.vocabulary(ends=()))
    try:
        schema = {"properties": {"a": {"const": "b"}}, "required": ["a"], "additionalProperties": False}
        matcher = prepare(made, "json_schema", {"type": "object", **schema})
        taken, is_over = walk(matcher, 3)
        assert is_over and json.loads(tokens.text_of(taken)) == {"a": "b"}
    finally:
        made.close()


def test_closing_leaves_no_process(tokens: Tokens) -> None:
    before = set(psutil.Process().children())
    made = Constraints(tokens.vocabulary())
    prepare(made, "regex", "a")
    (child,) = set(psutil.Process().children()) - before
    made.close()
    assert not child.is_running()


_BUSY = """
import sys
from modelrack.llm.contract import Constraint
from modelrack.llm.guided.vetting import Vetting
vetting = Vetting(compile_s=60)
vetting.grammar(Constraint(kind="regex", value="a", field="guided_regex"))
print("ready", flush=True)
vetting.grammar(Constraint(kind="grammar", value=sys.argv[1], field="guided_grammar"))
"""


def test_a_killed_worker_leaves_no_process() -> None:
    """Not even one that compiles for minutes."""
    worker = subprocess.Popen([sys.executable, "-c", _BUSY, SLOW], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    (child,) = psutil.Process(worker.pid).children()
    worker.kill()
    worker.communicate()
    assert not psutil.wait_procs([child], timeout=20)[1]


def test_a_vocabulary_is_read_from_a_tokenizers_json(tmp_path: Path) -> None:
    """It is the same as by its tokens; columns of the logits past the last one are never allowed."""
    text = (write_random_model(tmp_path / "model") / "tokenizer.json").read_text()
    ids: dict[str, int] = json.loads(text)["model"]["vocab"]
    end = next(one["id"] for one in json.loads(text)["added_tokens"] if one["content"] == "<|im_end|>")
    vocabulary = Vocabulary.of_json(text, size=512, ends=[end])
    assert vocabulary.texts[ids["ba"]] == b"ba" and vocabulary.texts[end] == b"<|im_end|>"
    made = Constraints(vocabulary)
    try:
        for seed in range(5):
            properties = {"a": {"type": "string", "maxLength": 9}}
            schema = {"type": "object", "properties": properties, "required": ["a"], "additionalProperties": False}
            taken, is_over = walk(prepare(made, "json_schema", schema), seed)
            answer = json.loads(b"".join(vocabulary.texts[token] for token in taken))
            assert is_over and set(answer) == {"a"} and max(taken) < max(ids.values()) + 10
        waiting = allowed(prepare(made, "regex", "a", (ids["z"], ids["b"])))
        assert waiting is not None and max(waiting) < 420
    finally:
        made.close()
