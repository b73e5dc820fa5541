"""Constraints on the answers of a real server: a model with random weights would never keep to them by itself."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from modelrack.testing.gguf import write_random_model
from modelrack.testing.json_schemas import REFUSED, SCHEMAS, RefusedSchema, SchemaCase
from modelrack.testing.serving import start_server

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
UID = "tiny"
PROMPTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hello"}]},
    COMPLETIONS: {"prompt": "hello"},
}

Ask = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Return a client of a server that has the model."""
    folder = tmp_path_factory.mktemp("constraints")
    model = write_random_model(folder / "tiny.gguf")
    with start_server(folder / "home") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        launch = {"model_name": str(model), "model_engine": "llama-cpp-python", "model_uid": UID}
        options = {"n_parallel": 8, "n_threads": 2}
        response = client.post("/v1/models", params={"wait_ready": 1}, json={**launch, **options}, timeout=120)
        assert response.status_code == 200, response.text
        yield client


@pytest.fixture
def ask(http: httpx.Client) -> Ask:
    """Return a function that asks, whole or streamed, and returns the answer and why it ended."""

    def ask(path: str = CHAT, **fields: Any) -> tuple[str, str]:
        body = {"model": UID, **PROMPTS[path], "max_tokens": 200, "temperature": 0, **fields}
        response = http.post(path, json=body)
        assert response.status_code == 200, response.text
        if not body.get("stream"):
            choice = response.json()["choices"][0]
            return text_of(choice, "message"), choice["finish_reason"]
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]", response.text
        choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
        return "".join(text_of(one, "delta") for one in choices), choices[-1]["finish_reason"]

    return ask


def text_of(choice: dict[str, Any], part: str) -> str:
    return choice["text"] if "text" in choice else choice.get(part, {}).get("content") or ""


def refused(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Return the error of a chat that must be refused."""
    response = http.post(CHAT, json={"model": UID, **PROMPTS[CHAT], "max_tokens": 8, **fields})
    assert response.status_code == 400, response.text
    return dict(response.json()["error"])


# JSON schemas


def test_there_are_enough_schemas() -> None:
    assert len(SCHEMAS) >= 50 and len({case.name for case in SCHEMAS}) == len(SCHEMAS)
    assert len(REFUSED) >= 20
    for case in SCHEMAS:
        case.validator().check_schema(case.schema)


@pytest.mark.parametrize("case", SCHEMAS, ids=lambda case: case.name)
def test_every_answer_is_valid_streamed_or_not(ask: Ask, case: SchemaCase) -> None:
    limit = {"max_tokens": case.max_tokens}
    whole = ask(CHAT, guided_json=case.schema, **limit)
    case.check(*whole)
    assert ask(CHAT, guided_json=case.schema, stream=True, **limit) == whole
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": case.schema}}
    for seed, stream in ((1, False), (2, True)):
        case.check(*ask(COMPLETIONS, response_format=form, temperature=1.5, seed=seed, stream=stream, **limit))


def test_answers_by_different_schemas_at_once_are_valid(ask: Ask) -> None:
    def answer(number: int) -> tuple[str, str]:
        case = SCHEMAS[number]
        return ask(CHAT, guided_json=case.schema, max_tokens=case.max_tokens, temperature=1, seed=number)

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(answer, range(len(SCHEMAS))))
    for case, got in zip(SCHEMAS, together, strict=True):
        case.check(*got)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_cannot_be_honoured_is_refused_by_its_keyword(http: httpx.Client, case: RefusedSchema) -> None:
    error = refused(http, guided_json=case.schema)
    assert error["param"] == "guided_json" and case.keyword in error["message"], error


def test_a_schema_with_many_other_fields(http: httpx.Client, ask: Ask) -> None:
    case = next(case for case in SCHEMAS if case.name == "flat object")
    body = {"guided_json": case.schema, "temperature": 1, "seed": 7, "logprobs": True, "top_logprobs": 3, "n": 4}
    response = http.post(CHAT, json={"model": UID, **PROMPTS[CHAT], "max_tokens": case.max_tokens, **body})
    assert response.status_code == 200, response.text
    choices = response.json()["choices"]
    texts = [choice["message"]["content"] for choice in choices]
    for choice, text in zip(choices, texts, strict=True):
        case.check(text, choice["finish_reason"])
        # Probabilities are the model's own: it would have written something else.
        entries = choice["logprobs"]["content"]
        assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == text
        assert all(len(entry["top_logprobs"]) == 3 and entry["logprob"] <= 0 for entry in entries)
    assert len(set(texts)) > 1, "four seeds have written the same"
    text, finish = ask(CHAT, guided_json=case.schema, stop=['"age"'])
    assert text == '{"name": ' + json.dumps(json.loads(text.removeprefix('{"name": ').removesuffix(", ")),
                                            ensure_ascii=False) + ", " and finish == "stop"  # fmt: skip


def test_a_limit_cuts_an_answer_and_says_so(ask: Ask) -> None:
    text, finish = ask(CHAT, guided_json={"const": "a long text that is cut"}, max_tokens=5)
    assert finish == "length" and '"a long text that is cut"'.startswith(text)


@pytest.mark.parametrize("fields", [{"ignore_eos": True}, {"min_tokens": 50}, {"stop_token_ids": [5]}], ids=str)
def test_an_answer_that_is_complete_ends_whatever_is_asked_of_its_length(ask: Ask, fields: dict[str, Any]) -> None:
    assert ask(CHAT, guided_json={"const": "ok"}, **fields) == ('"ok"', "stop")


# Patterns and choices


def matches(pattern: str, text: str) -> bool:
    """Tell whether a text matches, or has characters that this Python has not heard of: llguidance knows more."""
    return re.fullmatch(pattern, text) is not None or any(unicodedata.category(char) == "Cn" for char in text)


PATTERNS = [
    "[a-c]{3}x",
    "(?:red|blue) [0-9]{2}",
    r"\d{3}-\d{4}",
    r"[\d_]{4}\D",
    r"\w{3}\s\S",
    r"[\w-]{3}[^\w\s]{2}\W",
    r"[]\d]{2}[^]\D]",
    "ö{2,4}[à-ü]",
    r"\p{Lu}\p{Ll}{2}",
    "日本(?:語)?",
    "^a(?:b|c)$",
    "^(?:yes|no)|maybe$",
    r"a/b\/c",
    '"\\\\"\n?',
    "(?i)straße",
    r"[^\n\x00-\x1f]{5}",
    r"(?P<year>20[0-9]{2})-(0[1-9]|1[0-2])",
    "",
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_answers_match_the_whole_pattern(ask: Ask, pattern: str) -> None:
    plain = pattern.replace(r"\p{Lu}", r"[^\W\d_a-z]").replace(r"\p{Ll}", r"[^\W\d_A-Z]")
    for fields in ({}, {"temperature": 2, "seed": 1}, {"temperature": 2, "seed": 2, "stream": True}):
        text, finish = ask(COMPLETIONS, guided_regex=pattern, **fields)
        assert finish == "stop" and matches(plain, text), text


@pytest.mark.parametrize("pattern", ["(", "a{2", "(?=a)b", r"(a)\1", r"\bword", "a$b", r"\q", "[z-a]", "(" * 5000])
def test_a_pattern_that_cannot_be_had_is_refused(http: httpx.Client, pattern: str) -> None:
    error = refused(http, guided_regex=pattern)
    assert error["param"] == "guided_regex" and "guided_regex" in error["message"]


@pytest.mark.parametrize("fields", [{"guided_json": {"$ref": "#"}}, {"guided_regex": r"[^\x00-\U0010ffff]"}])
def test_what_no_answer_can_be_is_refused_in_words(http: httpx.Client, fields: dict[str, Any]) -> None:
    assert "no answer can be what it asks for" in refused(http, **fields)["message"]


def test_answers_are_one_of_the_choices(ask: Ask) -> None:
    choices = ["red", "redder", "reddest", "größer 🐋", 'a "b"\\\n', "/x/", "{1,2}", " ", "日本", "日本語", "|"]
    seen = {ask(CHAT, guided_choice=choices, temperature=2, seed=seed) for seed in range(24)}
    assert {text for text, _ in seen} <= set(choices) and {finish for _, finish in seen} == {"stop"}
    assert len(seen) > 3
    for choice in choices:
        assert ask(CHAT, guided_choice=[choice], stream=True) == (choice, "stop")


def test_one_choice_of_thousands(ask: Ask) -> None:
    choices = [f"number {number}" for number in range(5000)]
    text, finish = ask(CHAT, guided_choice=choices, temperature=1)
    assert text in choices and finish == "stop"


# Grammars

LARK = """%llguidance {}
start: greeting " " NAME
greeting: "hello" | "good" " " ("morning" | "evening")
NAME: /[A-Z][a-z]{2,5}/
"""
GBNF = r"""
# A sum in brackets
root  ::= "(" sum ")"
sum   ::= value (" + " value){1,2}
value ::= [0-9] | "-" [1-9] [0-9]? | (
    "x" | "y"
)
"""


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (LARK, "(hello|good (morning|evening)) [A-Z][a-z]{2,5}"),
        ('start: "a"{2,3} B?\nB: "b"', "a{2,3}b?"),
        (GBNF, r"\(V( \+ V){1,2}\)".replace("V", "([0-9]|-[1-9][0-9]?|x|y)")),
        ('root ::= [a-c]{1,6} "end"', "[a-c]{1,6}end"),
        (r'root ::= "\u00e4\n" [^\x00-\x7f] "\U0001F600"', "ä\n[^\x00-\x7f]😀"),
    ],
    ids=["lark", "lark without a mark", "gbnf", "gbnf without a border", "gbnf with escapes"],
)
def test_answers_follow_the_grammar(ask: Ask, grammar: str, pattern: str) -> None:
    for fields in ({}, {"temperature": 2, "seed": 1}, {"temperature": 2, "seed": 2, "stream": True}):
        text, finish = ask(CHAT, guided_grammar=grammar, **fields)
        assert finish == "stop" and re.fullmatch(pattern, text), text


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("root ::= (((", "')' is missing"),
        ('root ::= "a', "ends in the middle"),
        ("root ::= other", "'other'"),
        ('other ::= "a"', "'root'"),
        ('root ::= "a" \\', "should end here"),
        ('root ::= "\\q"', "escape"),
        ('root ::= "a"{5,2}', "count"),
        ('root ::= "a"{99999}', "count"),
        ("root ::= <think>", "tokens"),
        ('start: "a" other', "other"),
        ("start: (((", ""),
        ("%llguidance {}\nstart: /(/", "unclosed group"),
        ("nonsense", ""),
    ],
)
def test_a_grammar_that_is_none_is_refused(http: httpx.Client, grammar: str, words: str) -> None:
    error = refused(http, guided_grammar=grammar)
    assert error["param"] == "guided_grammar" and words in error["message"], error


def test_the_worker_outlives_hostile_constraints(http: httpx.Client, ask: Ask) -> None:
    """What takes too much to compile is refused; the model has answered others meanwhile."""
    chain = "\n".join(["start: r0", *(f'r{i}: "a" r{i + 1} | "b" r{i + 1}' for i in range(2000)), 'r2000: "z"'])
    slow = "start: T\nT: " + " & ".join(f"/(.*x.{{{count}}}y.*)/" for count in range(40))
    deep: dict[str, Any] = {"type": "null"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    hostile: list[dict[str, Any]] = [
        {"guided_grammar": chain},
        {"guided_grammar": slow},
        {"guided_grammar": "start: " + '"aa" ' * 100_000},
        {"guided_json": deep},
        {"guided_json": {"const": "x" * 2_000_000}},
        {"guided_json": {"enum": [f"value {number}" for number in range(80_000)]}},
        {"guided_choice": ["x" * 400_000]},
    ]
    with ThreadPoolExecutor(4) as pool:
        plain = [pool.submit(ask, CHAT, max_tokens=64) for _ in range(3)]
        for fields in hostile:
            error = refused(http, **fields)
            assert error["param"] == next(iter(fields))
        assert all(one.result()[0] for one in plain)
    assert ask(CHAT, guided_json={"const": "ok"}) == ('"ok"', "stop")
