"""Answers the ability `generate`."""

from collections.abc import AsyncIterator

from ..api.completions import CompletionRequest
from ..errors import BadRequest
from ..worker.contract import Call
from .answers import ChunkTails, Want
from .constraints import find_constraint
from .requests import check_ids, stop_strings
from .served import ServedModel
from .text_answers import Echo, TextCollector, TextStream, text_tail

__all__ = ["CompletionHandler"]


class CompletionHandler:
    """Continues prompts."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._tails = ChunkTails(served.texts(()), text_tail)
        traits = served.model.traits
        self.unsupported = served.unsupported
        self.supported = (*traits.supported, *(("suffix",) if traits.fill_in else ()))

    async def __call__(self, request: CompletionRequest, call: Call) -> AsyncIterator[bytes] | bytes:
        """Continue each prompt."""
        served = self._served
        constraint = find_constraint(request, served.model.traits, served.refuse)
        prompts = [await self._prompt(prompt, request) for prompt in request.prompts]
        generations = [
            served.maker.make(
                prompt,
                request,
                logprobs=request.logprobs,
                prompt_logprobs=bool(request.echo) and request.logprobs is not None,
                constraint=constraint,
                request_id=request.request_id or call.request_id,
            )
            for prompt in prompts
        ]
        echo = Echo([self._echo(prompt) for prompt in request.prompts], prompts) if request.echo else None
        writes_all = request.skip_special_tokens is False
        want = Want(
            texts=served.texts(None if writes_all else ()),
            prompts=len(prompts),
            n=request.n or 1,
            stop=stop_strings(request.stop),
            logprobs=request.logprobs,
            usage=request.include_usage,
        )
        if request.stream:
            stream = TextStream(call, want, echo, served.names, None if writes_all else self._tails)
            await served.submit(stream, generations)
            return stream.stream
        answer = TextCollector(call, want, echo, served.names)
        await served.submit(answer, generations)
        return await answer.result()

    async def _prompt(self, prompt: str | list[int], request: CompletionRequest) -> list[int]:
        """Return a prompt's tokens."""
        traits = self._served.model.traits
        if isinstance(prompt, list):
            if request.suffix:
                raise BadRequest("'suffix' needs prompts that are text.", param="suffix")
            check_ids(prompt, traits.n_vocab, "prompt")
            return prompt
        special = request.add_special_tokens is not False
        if request.suffix:
            return await self._fill_in(prompt, request.suffix, special=special)
        tokens = await self._served.encode(prompt, add_special=special)
        if not tokens:
            if traits.bos_id is None:
                raise BadRequest("'prompt' is empty, and this model has no token to begin a text with.", param="prompt")
            return [traits.bos_id]
        return tokens

    async def _fill_in(self, prompt: str, suffix: str, *, special: bool) -> list[int]:
        traits = self._served.model.traits
        assert traits.fill_in is not None
        before, after, middle = traits.fill_in
        begin = [traits.bos_id] if special and traits.adds_bos and traits.bos_id is not None else []
        texts = [await self._served.encode(text, add_special=False) for text in (prompt, suffix)]
        return [*begin, before, *texts[0], after, *texts[1], middle]

    def _echo(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._served.text_of(prompt)
