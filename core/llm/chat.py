"""Answers the ability `chat`."""

from collections.abc import AsyncIterator
from dataclasses import replace

from ..api.chat import ChatRequest
from ..worker.contract import Call
from .answers import ChunkTails, Want
from .chat_answers import ChatCollector, ChatStream, chat_tail
from .chat_rules import ChatRules
from .constraints import check_kind, find_constraint
from .images import inline_images
from .prompts import ChatPrompts
from .requests import stop_strings
from .served import ServedModel

__all__ = ["ChatHandler"]


class ChatHandler:
    """Answers conversations."""

    def __init__(self, served: ServedModel, prompts: ChatPrompts) -> None:
        self._served = served
        self._prompts = prompts
        self._rules = ChatRules(prompts, served.format)
        self._tails = ChunkTails(served.texts(()), chat_tail)
        self.unsupported = served.unsupported
        self.supported = served.model.traits.supported
        marks = served.format.reasoning_marks()
        self._closing = served.token_of(marks[-1]) if marks else None

    async def __call__(self, request: ChatRequest, call: Call) -> AsyncIterator[bytes] | bytes:
        """Answer a conversation."""
        served, prompts, rules = self._served, self._prompts, self._rules
        if served.model.traits.media_mark:
            messages = await inline_images(request.messages, served.plan.fetch_hosts)
            request = request.model_copy(update={"messages": messages})
        constraint = find_constraint(request, served.model.traits, served.refuse)
        use = rules.tools(request, constraint)
        if use.constraint is not None:
            constraint = use.constraint
            check_kind(constraint, served.model.traits, served.refuse)
        variables = prompts.variables(request.template_kwargs)
        prompt = prompts.render(
            use.messages,
            tools=use.shown,
            variables=variables,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=bool(request.continue_final_message),
        )
        if constraint is not None:
            prompt, thinks = rules.before_answer(prompt, variables, can_wait=self._closing is not None)
            if thinks and self._closing is not None:
                constraint = replace(constraint, begins_after=(self._closing,))
        parser = rules.parser(prompt, use)
        want = self._want(request, parser is not None)
        logprobs = want.logprobs
        generation = served.maker.make(
            await prompts.tokens(prompt, served.encode),
            request,
            logprobs=logprobs,
            constraint=constraint,
            request_id=request.request_id or call.request_id,
        )
        if request.stream:
            tails = self._tails if request.skip_special_tokens is not False else None
            stream = ChatStream(call, want, parser, served.names, tails)
            await served.submit(stream, [generation])
            return stream.stream
        answer = ChatCollector(call, want, parser, served.names)
        await served.submit(answer, [generation])
        return await answer.result()

    def _want(self, request: ChatRequest, is_parsed: bool) -> Want:
        served = self._served
        writes_all = request.skip_special_tokens is False
        return Want(
            texts=served.texts(None if writes_all else served.format.marks if is_parsed else ()),
            n=request.n or 1,
            stop=stop_strings(request.stop, served.stop),
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            usage=request.include_usage,
            one_call=request.parallel_tool_calls is False,
        )
