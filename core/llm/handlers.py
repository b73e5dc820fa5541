"""The handlers of language models, made of what an engine implements."""

from collections.abc import Mapping

from ..hooks.types import LoadPlan
from ..worker.contract import Handler
from .chat import ChatHandler
from .completions import CompletionHandler
from .contract import LanguageModel
from .prompts import ChatPrompts
from .served import ServedModel
from .template import ChatTemplate
from .tokenize import ConvertIdsHandler, DetokenizeHandler, TokenizeHandler

__all__ = ["make_handlers"]


def make_handlers(model: LanguageModel, plan: LoadPlan) -> Mapping[str, Handler]:
    """Return the handlers of a language model by ability; `chat` is there if it has a chat template.

    Called in the loader's thread, before the first request.

    Raises: LaunchFailed: its chat template cannot be compiled.
    """
    served = ServedModel(model, plan)
    prompts = None
    source = model.traits.chat_template or plan.family.chat_template
    handlers: dict[str, Handler] = {}
    if source is not None:
        template = ChatTemplate(source, model.traits.template_variables)
        prompts = ChatPrompts(model, template, served.refuse, can_think=served.format.reasoning is not None)
        handlers["chat"] = ChatHandler(served, prompts)
    handlers["generate"] = CompletionHandler(served)
    handlers["tokenize"] = TokenizeHandler(served, prompts)
    handlers["detokenize"] = DetokenizeHandler(served)
    handlers["convert_ids_to_tokens"] = ConvertIdsHandler(served)
    return handlers
