"""Fields that a launch sets for requests that leave them out."""

import orjson
import pytest

from modelrack.api.chat import ChatRequest
from modelrack.api.tokenize import TokenizeRequest
from modelrack.worker.validation import make_parser

DEFAULTS = {"enable_thinking": False, "unknown_to_all": 1}
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(("given", "expected"), [({}, False), ({"enable_thinking": None}, False)])
def test_a_default_fills_what_is_left_out(given: dict[str, object], expected: bool) -> None:
    parse = make_parser(ChatRequest, DEFAULTS)
    assert parse(orjson.dumps({**BODY, **given})).enable_thinking is expected


def test_a_request_wins_over_a_default() -> None:
    assert make_parser(ChatRequest, DEFAULTS)(orjson.dumps({**BODY, "enable_thinking": True})).enable_thinking is True


def test_a_route_that_does_not_know_the_field_is_left_alone() -> None:
    assert make_parser(TokenizeRequest, DEFAULTS)(orjson.dumps({"model": "m", "prompt": "x"})).prompt == "x"
