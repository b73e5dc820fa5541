"""What the suites of embedding and rerank share: texts, clients that leave, full queues, a worker that dies."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from .answers import check_error
from .served import BaseRig, BaseTarget, together

__all__ = ["TEXTS", "ItemTests", "hostile_bodies", "long_text"]

_WORDS = (
    *("the", "of", "and", "a", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with"),
    *("his", "they", "at", "be", "this", "have", "from", "or", "one", "had", "by"),
)

TEXTS: tuple[str, ...] = (
    "The blue whale is the largest animal.",
    "honey never spoils",
    "a",
    "Grüße, 你好 🐋🦭! नमस्ते",
    "What is the capital of France?",
    "\n\t  white space   everywhere \r\n",
    "x" * 60,
    *(" ".join(_WORDS[(start * 7 + step) % len(_WORDS)] for step in range(3 + 5 * start)) for start in range(9)),
)
"""Texts of different lengths and scripts, all within 60 words."""


def long_text(words: int) -> str:
    """Return a text of at least so many tokens."""
    return " ".join(_WORDS[step % len(_WORDS)] for step in range(words))


def hostile_bodies() -> tuple[bytes, ...]:
    """Return bodies that make no sense."""
    return (b"", b"{", b"[]", b"null", b'"hello"', b"\xff\xfe", b'{"model": 5}', b"{}" * 3, b"[" * 5000)


class ItemTests:
    """Tests that need to know of a type no more than a request that is right and one that is much work.

    A suite gives `path`, bodies for it and `compare`, which knows what must always be the same in two answers.
    """

    path: str

    def small(self, number: int) -> Mapping[str, Any]:
        """Return the body of a request that is answered quickly."""
        raise NotImplementedError

    def much(self, target: BaseTarget) -> Mapping[str, Any]:
        """Return the body of a request that is the most work that one can be."""
        raise NotImplementedError

    def compare(self, found: Sequence[Any], expected: Sequence[Any]) -> None:
        """Check that answers (as JSON) say the same."""
        raise NotImplementedError

    def answers(self, target: BaseTarget, bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Send bodies one after the other; all must be answered."""
        found = []
        for body in bodies:
            response = target.post(self.path, body)
            assert response.status_code == 200, f"{response.status_code}: {response.text}"
            found.append(response.json())
        return found

    def test_bodies_that_make_no_sense_are_no_failures(self, main: BaseTarget) -> None:
        for content in hostile_bodies():
            response = main.http.post(self.path, content=content, headers={"content-type": "application/json"})
            assert response.status_code in (400, 404), f"{content[:20]!r} is answered with {response.status_code}"
            check_error(response.json())

    def test_an_unknown_model_is_a_404(self, main: BaseTarget) -> None:
        response = main.http.post(self.path, json={**self.small(0), "model": "no-such-model"})
        assert response.status_code == 404
        assert "no-such-model" in check_error(response.json())["message"]

    def test_32_clients_at_once_are_answered_as_each_alone(self, main: BaseTarget) -> None:
        bodies = [self.small(number) for number in range(32)]
        alone = self.answers(main, bodies)
        for _ in range(3):
            found = together(lambda body: self.answers(main, [body])[0], bodies)
            self.compare(found, alone)

    def test_one_bad_request_fails_alone(self, main: BaseTarget) -> None:
        bodies = [self.small(number) for number in range(16)]
        alone = self.answers(main, bodies)
        bad = [{**self.small(0), "no_such_field": 1}, *self.bad_bodies(main)]

        def do(number: int) -> Any:
            if number < len(bodies):
                return self.answers(main, [bodies[number]])[0]
            return main.refused(self.path, bad[number - len(bodies)])

        found = together(do, range(len(bodies) + len(bad)))
        self.compare(found[: len(bodies)], alone)

    def bad_bodies(self, target: BaseTarget) -> list[Mapping[str, Any]]:
        """Return bodies that are refused because of one of their items."""
        raise NotImplementedError

    def test_clients_that_leave_stop_their_share_of_the_work(self, main: BaseTarget) -> None:
        before = self.answers(main, [self.small(3)])

        def leave(number: int) -> None:
            timeout = httpx.Timeout(30, read=0.05 + 0.02 * number)
            with contextlib.suppress(httpx.ReadTimeout):
                main.post(self.path, self.much(main), timeout=timeout)

        together(leave, range(8))
        main.wait_until_idle()
        self.compare(self.answers(main, [self.small(3)]), before)

    def test_a_full_queue_is_told(self, rig: BaseRig) -> None:
        """A model whose queue is short takes what it can, and tells the others when to come again."""
        target: BaseTarget = rig.target("narrow")
        alone = self.answers(target, [self.small(number) for number in range(4)])
        body = self.much(target)

        def ask(number: int) -> tuple[int, httpx.Response]:
            return number, target.post(self.path, body if number >= 4 else self.small(number))

        refused = 0
        for _ in range(5):
            for number, response in together(ask, range(24)):
                if response.status_code == 429:
                    refused += 1
                    assert int(response.headers["retry-after"]) >= 1
                    assert check_error(response.json())["type"] == "rate_limit_error"
                    continue
                assert response.status_code == 200, response.text
                if number < 4:
                    self.compare([response.json()], [alone[number]])
            if refused:
                break
        assert refused, "a queue of a few items took all that 24 clients sent at once"
        self.compare(self.answers(target, [self.small(number) for number in range(4)]), alone)

    def test_z_a_worker_that_is_killed_comes_back(self, rig: BaseRig, main: BaseTarget) -> None:
        bodies = [self.small(number) for number in range(3)]
        before = self.answers(main, bodies)
        ask: Callable[[int], int] = lambda _: main.post(self.path, self.much(main)).status_code  # noqa: E731
        pid = main.kill()
        assert set(together(ask, range(3))) <= {200, 502, 503}
        rig.wait_until_back(main, pid)
        self.compare(self.answers(main, bodies), before)
