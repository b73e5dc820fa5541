"""Clients that leave, requests that are aborted, a worker that dies: the others must not notice."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from .base import LONG, PROMPT, numbered
from .rig import CHAT, Rig, Target, together

__all__ = ["FaultTests"]

_MUCH = 500
"""Tokens of an answer that takes a while."""
_TRIES = 5


def _lines(target: Target, text: str, **fields: Any) -> contextlib.AbstractContextManager[Iterator[str]]:
    """Open a stream, and give its lines as they come."""

    @contextlib.contextmanager
    def opened() -> Iterator[Iterator[str]]:
        body = {"model": target.uid, "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        with target.http.stream("POST", CHAT, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            yield response.iter_lines()

    return opened()


def _leave(target: Target, text: str, events: int = 4, **fields: Any) -> None:
    """Ask for a stream, and go away after some events."""
    with _lines(target, text, **fields) as lines:
        for _ in zip(range(2 * events), lines, strict=False):
            pass


def _abort(target: Target, text: str, request_id: str) -> dict[str, Any]:
    """Ask for a stream, abort it by its id, and return the error that it ends with.

    An answer that is over before anybody can abort it, as on a busy machine, is asked for anew.
    """
    for _ in range(_TRIES):
        with _lines(target, text, max_tokens=_MUCH, request_id=request_id) as lines:
            next(lines)
            answer = target.http.post(f"/v1/models/{target.uid}/requests/{request_id}/abort")
            rest = list(lines)
        events = [json.loads(line.removeprefix("data: ")) for line in rest if line.startswith("data: {")]
        is_over = "data: [DONE]" in rest
        assert (answer.status_code, answer.json()) == (200, {"msg": "NOT_FOUND" if is_over else "DONE"})
        if not is_over:
            assert events and "error" in events[-1], "an aborted stream does not end with an error"
            return dict(events[-1]["error"])
    raise AssertionError(f"{_TRIES} answers were over before they could be aborted")


class FaultTests:
    """Cancelling, aborting, overflowing and dying; part of the base."""

    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_a_client_that_leaves_stops_the_work(self, main: Target, stream: bool) -> None:
        for number in range(3):
            if stream:
                _leave(main, f"{number} {LONG}", max_tokens=_MUCH)
            else:
                body = {"messages": [{"role": "user", "content": f"{number} {LONG}"}], "max_tokens": _MUCH}
                with contextlib.suppress(httpx.ReadTimeout):
                    main.post(CHAT, body, timeout=httpx.Timeout(20, read=0.1))
        main.wait_until_idle()
        assert main.chat(PROMPT, max_tokens=3).counts[1] == 3

    def test_a_request_is_aborted_by_its_id(self, main: Target) -> None:
        assert _abort(main, LONG, "kit-abort")["code"]
        answer = main.http.post(f"/v1/models/{main.uid}/requests/kit-abort/abort")
        assert (answer.status_code, answer.json()) == (200, {"msg": "NOT_FOUND"})
        main.wait_until_idle()

    def test_of_16_those_that_are_left_alone_are_not_affected(self, main: Target) -> None:
        """In one batch: clients that leave, one that is aborted, a prompt that is too long, a field that is wrong."""
        prompts = numbered(16)
        alone = [main.chat(prompt, max_tokens=40).said for prompt in prompts]
        length = main.context_length()
        overflow = {"messages": [{"role": "user", "content": "one two " * length}], "max_tokens": 4}
        wrong = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4, "temperature": -1}
        troubles: list[Callable[[], Any]] = [
            lambda: _leave(main, prompts[0] + LONG, max_tokens=_MUCH),
            lambda: _leave(main, prompts[1], max_tokens=_MUCH, events=1),
            lambda: _abort(main, prompts[2] + LONG, "kit-of-16"),
            lambda: main.refused(CHAT, overflow),
            lambda: main.refused(CHAT, wrong),
        ]

        def do(number: int) -> Any:
            if number >= 16:
                return troubles[number - 16]()
            return main.chat(prompts[number], max_tokens=40, stream=bool(number % 2)).said

        assert together(do, range(16 + len(troubles)))[:16] == alone
        main.wait_until_idle()

    def test_more_than_fit_at_once_are_all_answered(self, main: Target) -> None:
        prompts = numbered(40, words=4)

        def ask(prompt: str) -> Any:
            return main.chat(prompt, max_tokens=4).counts[1]

        assert together(ask, prompts) == [4] * 40

    def test_a_worker_that_is_killed_comes_back(self, main: Target, rig: Rig) -> None:
        """Comes last: what the worker had kept is gone."""
        before = main.chat(PROMPT, max_tokens=12).said
        ended: list[Any] = []
        begun = threading.Event()

        def wait_for_the_end() -> None:
            with _lines(main, LONG, max_tokens=_MUCH) as lines:
                for line in lines:
                    begun.set()
                    ended.append(line)

        asking = threading.Thread(target=wait_for_the_end)
        asking.start()
        assert begun.wait(main.subject.answer_s)
        pid = main.kill()
        asking.join(main.subject.answer_s)
        last = [line for line in ended if line][-1]
        assert "error" in json.loads(last.removeprefix("data: ")) if last != "data: [DONE]" else True
        rig.wait_until_back(main, pid)
        assert main.chat(PROMPT, max_tokens=12).said == before
