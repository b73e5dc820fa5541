"""Write and compile the grammar of a constraint in a process of its own, before the worker compiles it.

llguidance (1.9) bounds what most grammars may take, not what all may: some compile for minutes, some overflow the
stack, and the process is gone. What comes through here compiles in the worker just as it did here.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

import orjson

from ...errors import BadRequest, UnsupportedParameter
from ..contract import Constraint
from .guidance import grammar_of, refusal

if TYPE_CHECKING:
    from llguidance import LLParserLimits, LLTokenizer

__all__ = ["Vetting", "limits"]

_START_S = 60.0
_LOOK_UP_S = 1.0
_MEMORY_BYTES = 1024**3
_STACK_BYTES = 2 * 1024**2
"""Less than the threads of the worker have: what overflows the stack does it here."""
_SIZE = struct.Struct("<I")
_READY = b"ready"


def limits() -> LLParserLimits:
    """Return the limits of each matcher; those not named are llguidance's own. A state of the lexer takes 1 to 2 kB."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        step_max_items=50_000, max_lexer_states=20_000, precompute_large_lexemes=False, verbose_errors=False
    )


class Vetting:
    """Tries constraints. The process starts with the first and lives until `close`, or until a constraint kills it.

    Its methods block, and are for one thread at a time.

    Args:
        compile_s: the most that a grammar may take.
    """

    def __init__(self, compile_s: float = 4) -> None:
        self._compile_s = compile_s
        self._process: subprocess.Popen[bytes] | None = None

    def grammar(self, constraint: Constraint) -> str:
        """Return the grammar of a constraint.

        Raises: BadRequest: it is malformed, asks for what cannot be honoured, or takes too much to compile.
        """
        process = self._process if self._process is not None and self._process.poll() is None else self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            _write(process.stdin, orjson.dumps([constraint.kind, constraint.value, constraint.field]))
            answer = orjson.loads(_read(process.stdout, self._compile_s))
        except (BrokenPipeError, EOFError):
            self.close()
            raise refusal(constraint, "it takes too much memory to compile") from None
        except TimeoutError:
            self.close()
            raise refusal(constraint, f"it takes more than {self._compile_s:g} seconds to compile") from None
        if "grammar" in answer:
            return str(answer["grammar"])
        kind = UnsupportedParameter if answer["code"] == UnsupportedParameter.code else BadRequest
        raise kind(answer["message"], param=constraint.field)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        command = [sys.executable, "-P", "-m", __name__]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._process = process
        assert process.stdout is not None
        if _read(process.stdout, _START_S) != _READY:
            raise RuntimeError("the process that tries constraints did not start")
        return process


def _write(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(_SIZE.pack(len(data)) + data)
    pipe.flush()


def _read(pipe: IO[bytes], timeout_s: float | None) -> bytes:
    """Return the next message.

    Raises: EOFError: there is no other end any more. TimeoutError: nothing came in time.
    """
    if timeout_s is not None and not select.select([pipe], [], [], timeout_s)[0]:
        raise TimeoutError
    head = pipe.read(_SIZE.size)
    if len(head) < _SIZE.size:
        raise EOFError
    return pipe.read(_SIZE.unpack(head)[0])


def _try(constraint: Constraint, tokenizer: LLTokenizer) -> dict[str, Any]:
    from llguidance import LLMatcher

    try:
        grammar = grammar_of(constraint)
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits())
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise refusal(constraint, matcher.get_error())
    except BadRequest as error:
        return {"message": error.message, "code": error.code}
    return {"grammar": grammar}


def _serve() -> None:
    """Answer the constraints on stdin, on stdout, until there are no more."""
    from llguidance import LLTokenizer

    tokenizer = LLTokenizer("byte")
    _write(sys.stdout.buffer, _READY)
    while True:
        try:
            kind, value, field = orjson.loads(_read(sys.stdin.buffer, None))
        except EOFError:
            return
        _write(sys.stdout.buffer, orjson.dumps(_try(Constraint(kind=kind, value=value, field=field), tokenizer)))


def main() -> None:
    """Run the process that tries constraints."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=_serve, daemon=True)
    worker = os.getppid()
    thread.start()
    while thread.is_alive() and os.getppid() == worker:  # a killed worker stops no compilation
        thread.join(_LOOK_UP_S)
    os._exit(0)


if __name__ == "__main__":
    main()
