"""Answers the ability `chat`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..api.chat import ChatRequest
from ..errors import UnsupportedParameter
from ..worker.contract import Call
from .answers import ChunkTails, Want
from .chat_answers import ChatCollector, ChatStream, MakeParser, chat_tail
from .constraints import check_kind, find_constraint
from .contract import Constraint
from .formats.base import Content, OutputParser, ParserContext
from .formats.choice import make_parser
from .formats.reasoning import is_opened
from .images import inline_images
from .prompts import ChatPrompt, ChatPrompts
from .requests import stop_strings
from .served import ServedModel
from .tools import ForcedParser, ForcedTools, ParserChain, clean_tool, introduce, tool_parameters

__all__ = ["ChatHandler"]

_TAIL = 2000
"""Characters of the prompt's end that parsers look at."""


class ChatHandler:
    """Answers conversations."""

    def __init__(self, served: ServedModel, prompts: ChatPrompts) -> None:
        self._served = served
        self._prompts = prompts
        self._tails = ChunkTails(served.texts(()), chat_tail)
        self.unsupported = served.unsupported
        self.supported = served.model.traits.supported
        marks = served.format.reasoning_marks()
        self._marks = marks if len(marks) == 2 else None
        self._closing = served.token_of(marks[-1]) if marks else None

    async def __call__(self, request: ChatRequest, call: Call) -> AsyncIterator[bytes] | bytes:
        """Answer a conversation."""
        served, prompts = self._served, self._prompts
        if served.model.traits.media_mark:
            messages = await inline_images(request.messages, served.plan.fetch_hosts)
            request = request.model_copy(update={"messages": messages})
        constraint = find_constraint(request, served.model.traits, served.refuse)
        forced, tools, messages = self._tools(request, constraint)
        if forced is not None:
            constraint = Constraint(kind="json_schema", value=forced.schema(), field="tools")
            check_kind(constraint, served.model.traits, served.refuse)
        variables = prompts.variables(request.template_kwargs)
        prompt = prompts.render(
            messages,
            tools=tools,
            variables=variables,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=bool(request.continue_final_message),
        )
        if constraint is not None:
            prompt, constraint = self._after_reasoning(prompt, constraint, variables)
        may_call = bool(request.tools) and request.tool_choice != "none" and forced is None
        parser = self._parser(request, prompt, forced, may_call=may_call)
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

    def _tools(
        self, request: ChatRequest, constraint: Constraint | None
    ) -> tuple[ForcedTools | None, Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
        """Return the forced choice, the tools for the template, and the messages, with an introduction if it must be.

        Raises: UnsupportedParameter: the template knows no tools, and none is forced; tools and a constraint.
        """
        messages: Sequence[Mapping[str, Any]] = request.messages
        if not request.tools:
            return None, (), messages
        choice = request.tool_choice
        tools = [clean_tool(tool) for tool in request.tools]
        knows_tools = self._prompts.abilities.tools
        shown = tools if knows_tools else ()
        if choice == "none":
            return None, shown, messages
        if constraint is not None:
            raise UnsupportedParameter("Tools cannot be had together with a constraint on the answer.", param="tools")
        name = choice["function"]["name"] if isinstance(choice, dict) else None
        if name is None and choice != "required":
            if not knows_tools or self._served.format.tools is None:
                raise self._no_tools(knows_tools)
            return None, shown, messages
        forced = ForcedTools(tools, name, bool(request.parallel_tool_calls))
        if not knows_tools:
            messages = introduce(messages, tools, has_system=self._prompts.abilities.system)
        return forced, shown, messages

    def _no_tools(self, knows_tools: bool) -> UnsupportedParameter:
        lack = "it is not known how this model writes calls" if knows_tools else "this model's template knows no tools"
        remedy = "so it may only be made to call one; send a tool_choice of 'required' or with a name"
        return UnsupportedParameter(f"'tools' cannot be honoured: {lack}, {remedy}.", param="tools")

    def _parser(
        self, request: ChatRequest, prompt: ChatPrompt, forced: ForcedTools | None, *, may_call: bool
    ) -> MakeParser | None:
        """Return what makes the parser of each choice; None: all is content."""
        chosen = self._served.format
        if chosen.reasoning is None and forced is None and not may_call:
            return None
        tools = {}
        if may_call:
            tools = {tool["function"]["name"]: tool_parameters(tool["function"]) for tool in request.tools or ()}
        context = ParserContext(tools=tools, prompt=prompt.text[-_TAIL:])

        def make() -> OutputParser:
            first = make_parser(chosen, context)
            return first if forced is None else ParserChain(context, first, ForcedParser(context, forced))

        return make

    def _after_reasoning(
        self, prompt: ChatPrompt, constraint: Constraint, variables: Mapping[str, Any]
    ) -> tuple[ChatPrompt, Constraint]:
        """Let a model that thinks do so before a constraint begins; where that cannot be, close the reasoning.

        A model that has not begun to think by the end of the prompt might never do so, and the constraint would never
        begin: its reasoning is opened for it.
        """
        if self._marks is None:
            return prompt, constraint
        opens, closes = self._marks
        tail = prompt.text[-_TAIL:]
        is_open = is_opened(tail, opens, closes)
        if not is_open and (tail.rstrip().endswith(closes) or not self._prompts.thinks(variables)):
            return prompt, constraint
        if self._closing is not None:
            text = prompt.text if is_open else f"{prompt.text}{opens}\n"
            return replace(prompt, text=text), replace(constraint, begins_after=(self._closing,))
        endings = (f"\n{closes}\n\n" if is_open else f"{opens}\n\n{closes}\n\n", closes)
        ending = next((one for one in endings if self._answers_after(prompt.text + one)), endings[0])
        return replace(prompt, text=prompt.text + ending), constraint

    def _answers_after(self, prompt: str) -> bool:
        """Tell whether what follows a prompt would be read as the answer."""
        parser = make_parser(self._served.format, ParserContext(prompt=prompt[-_TAIL:]))
        pieces = [*parser.feed("{}"), *parser.finish()]
        return all(type(piece) is Content for piece in pieces)
