"""What the decode loop asks of a constraint: masks, accepting, forks, ways back, waiting for the reasoning's end."""

import asyncio
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

from modelrack.errors import BadRequest, EngineError
from modelrack.llm.contract import Constraint
from modelrack.testing.gguf import write_random_model

sys.path.insert(0, str(Path(__file__).parent))

from matching import Tokens, allowed, open_vocabulary, walk

from modelrack_llm_gguf.constraints import Constraints, Matcher
from modelrack_llm_gguf.marks import Mark


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokens]:
    path = write_random_model(tmp_path_factory.mktemp("models") / "tiny.gguf")
    with open_vocabulary(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def constraints(tokens: Tokens) -> Iterator[Constraints]:
    made = Constraints(tokens.handle, frozenset({tokens.end}))
    yield made
    made.close()


def prepare(constraints: Constraints, kind: Any, value: Any, after: tuple[int, ...] = ()) -> Matcher:
    constraint = Constraint(kind=kind, value=value, field="guided_it", begins_after=after)
    return asyncio.run(constraints.prepare(constraint))


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
        assert tokens.end not in (allowed(matcher, tokens) or ())
        matcher.accept(token)
    assert tokens.end not in (allowed(matcher, tokens) or ())
    (b,) = tokens.encode("b")
    matcher.accept(b)
    assert {tokens.end, b} <= set(allowed(matcher, tokens) or ())
    matcher.accept(tokens.end)
    assert allowed(matcher, tokens) is None


@pytest.mark.parametrize(("kind", "value"), [("choice", ("x",)), ("regex", "x"), ("json_schema", {"const": 5})])
def test_where_nothing_can_follow_the_answer_is_over_at_once(
    tokens: Tokens, constraints: Constraints, kind: str, value: Any
) -> None:
    matcher = prepare(constraints, kind, value)
    choices = allowed(matcher, tokens)
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
    assert walk(prepare(constraints, "regex", "a{5}"), tokens, 0)[1]


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
    assert allowed(matcher, tokens) is None
    assert allowed(other, tokens) == [d]


def test_drafts_are_judged_without_being_taken(tokens: Tokens, constraints: Constraints) -> None:
    matcher = prepare(constraints, "regex", "abc?")
    a, b, c = (tokens.encode(letter)[0] for letter in "abc")
    before = allowed(matcher, tokens)
    assert matcher.valid([a, b, c]) == 3
    assert matcher.valid([a, b, tokens.end]) == 3
    assert matcher.valid([a, c]) == 1
    assert matcher.valid([c]) == matcher.valid([]) == 0
    assert allowed(matcher, tokens) == before


def test_accepted_tokens_can_be_taken_back(tokens: Tokens, constraints: Constraints) -> None:
    matcher = prepare(constraints, "json_schema", {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3})
    before = allowed(matcher, tokens)
    text = tokens.encode("[1, 2, 1]")
    for token in text:
        matcher.accept(token)
    assert allowed(matcher, tokens) is None
    matcher.rollback(len(text))
    assert allowed(matcher, tokens) == before
    for token in tokens.encode("[2"):
        matcher.accept(token)
    matcher.rollback(1)
    assert allowed(matcher, tokens) is not None


# Reasoning first


@pytest.mark.parametrize("mark", ["</think>", "<|im_start|>", "aab"])
def test_a_constraint_begins_after_its_mark(tokens: Tokens, constraints: Constraints, mark: str) -> None:
    matcher = prepare(constraints, "regex", "[0-9]{3}", tuple(tokens.encode(mark)))
    for token in tokens.encode("I am not sure: a </thin < aa "):
        choices = allowed(matcher, tokens)
        assert choices is not None and token in choices and tokens.end not in choices
        matcher.accept(token)
    for token in tokens.encode(mark):
        matcher.accept(token)
    choices = allowed(matcher, tokens)
    assert choices is not None and re.fullmatch(b"[0-9]{10}", tokens.text_of(sorted(choices)))
    rest, is_over = walk(matcher, tokens, 1)
    assert is_over and re.fullmatch(b"[0-9]{3}", tokens.text_of(rest))


def test_no_token_reaches_behind_the_mark(tokens: Tokens, constraints: Constraints) -> None:
    """`ba` would end the mark and begin the answer, unseen by the constraint; it has to be `b` here."""
    matcher = prepare(constraints, "choice", ("no",), tuple(tokens.encode("zb")))
    (b,), (ba,), (z,) = tokens.encode("b"), tokens.encode("ba"), tokens.encode("z")
    assert ba in (allowed(matcher, tokens) or ())
    matcher.accept(z)
    choices = allowed(matcher, tokens)
    assert choices is not None and b in choices and ba not in choices
    assert matcher.valid([ba]) == 0
    assert matcher.valid([b, *tokens.encode("no"), tokens.end]) == 3
    assert matcher.valid([b, ba]) == 1
    matcher.rollback(1)
    assert ba in (allowed(matcher, tokens) or ())


def test_the_mark_is_found_wherever_it_begins() -> None:
    """As `bytes.find` would, for every text of three letters."""
    pieces = [b"a", b"b", b"ab", b"ba", b"aa", b"bab"]
    for text in (b"a", b"aab", b"abab", b"bb"):
        mark = Mark(text, pieces)
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
    schema = {"enum": [f"value {number}" for number in range(3000)]}
    spent = []
    for _ in range(3):
        begin = time.process_time()
        prepare(constraints, "json_schema", schema)
        spent.append(time.process_time() - begin)
    assert min(spent[1:]) < spent[0]
    process = psutil.Process()
    assert len(process.children()) == 1, "one process tries them all"


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
        ("grammar", "start: T\nT: " + " & ".join(f"/(.*x.{{{n}}}y.*)/" for n in range(40)), "seconds"),
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
    made = Constraints(tokens.handle, frozenset())
    try:
        schema = {"properties": {"a": {"const": "b"}}, "required": ["a"], "additionalProperties": False}
        matcher = prepare(made, "json_schema", {"type": "object", **schema})
        taken, is_over = walk(matcher, tokens, 3)
        assert is_over and json.loads(tokens.text_of(taken)) == {"a": "b"}
    finally:
        made.close()


def test_closing_leaves_no_process(tokens: Tokens) -> None:
    before = set(psutil.Process().children())
    made = Constraints(tokens.handle, frozenset({tokens.end}))
    prepare(made, "regex", "a")
    (child,) = set(psutil.Process().children()) - before
    made.close()
    assert not child.is_running()


_BUSY = """
from modelrack.llm.contract import Constraint
from modelrack_llm_gguf.vetting import Vetting
vetting = Vetting()
vetting.grammar(Constraint(kind="regex", value="a", field="guided_regex"))
print("ready", flush=True)
slow = "start: T\\nT: " + " & ".join(f"/(.*x.{{{count}}}y.*)/" for count in range(40))
vetting.grammar(Constraint(kind="grammar", value=slow, field="guided_grammar"))
"""


def test_a_killed_worker_leaves_no_process() -> None:
    """Not even one that compiles for minutes."""
    worker = subprocess.Popen([sys.executable, "-c", _BUSY], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    (child,) = psutil.Process(worker.pid).children()
    worker.kill()
    worker.communicate()
    assert not psutil.wait_procs([child], timeout=20)[1]
