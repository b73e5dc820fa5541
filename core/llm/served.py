"""A loaded model with all that its handlers share."""

from collections.abc import Callable, Iterable, Sequence

from ..errors import BadRequest
from ..hooks.types import LoadPlan
from .answers import Answer
from .contract import Generation, LanguageModel
from .encoding import Encoder
from .errors import Refusals
from .formats.choice import choose
from .logprobs import TokenNames
from .requests import GenerationMaker
from .text import TokenTexts

__all__ = ["ServedModel"]

_ALWAYS = {
    "guided_decoding_backend": "this engine has only one",
    "guided_whitespace_pattern": "this engine decides itself about white space in JSON",
}
"""Fields that are refused unless an engine says that it honours them."""


class ServedModel:
    """A loaded model with all that its handlers share."""

    def __init__(self, model: LanguageModel, plan: LoadPlan) -> None:
        self.model = model
        self.plan = plan
        self.refuse = Refusals(plan.feature_engines)
        self.encode = Encoder(model)
        self.maker = GenerationMaker(model.traits)
        self.names = TokenNames(model)
        self.stop = plan.family.stop
        self.unsupported = {name: reason for name, reason in _ALWAYS.items() if name not in model.traits.supported}
        self.unsupported |= model.traits.unsupported
        self.format = choose(plan.output_formats, plan.family, model.traits.chat_template)
        self._texts: dict[tuple[str, ...] | None, TokenTexts] = {}

    def texts(self, marks: Iterable[str] | None) -> TokenTexts:
        """Return what tokens add to answers.

        Args:
            marks: special tokens that are written out; None: all of them.
        """
        key = tuple(marks) if marks is not None else None
        found = self._texts.get(key)
        if found is None:
            found = self._texts[key] = TokenTexts(self._reader(key))
        return found

    def _reader(self, marks: tuple[str, ...] | None) -> Callable[[int], bytes]:
        model = self.model
        if marks is None:
            return model.special_bytes
        if not marks:
            return model.token_bytes
        kept = frozenset(mark.encode() for mark in marks)

        def read(token: int) -> bytes:
            data = model.token_bytes(token)
            if data:
                return data
            special = model.special_bytes(token)
            return special if special.strip() in kept else b""

        return read

    def token_of(self, mark: str) -> int | None:
        """Return the token that a mark is, or None if it is several."""
        ids = self.model.encode(mark, add_special=False, parse_special=True)
        return ids[0] if len(ids) == 1 else None

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        read = self.model.token_bytes
        data = b"".join([read(token) for token in tokens])
        if self.model.traits.begins_with_space:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    async def submit(self, answer: Answer, generations: Sequence[Generation]) -> None:
        """Queue what an answer needs; if one cannot be queued, none is.

        Raises: BadRequest: they would be too many if there were no others.
        """
        self._check_number(generations)
        try:
            for number, generation in enumerate(generations):
                if answer.is_closed:
                    return
                part = answer.part(number)
                answer.watch(part, await self.model.submit(generation, part))
        except BaseException:
            answer.cancel()
            raise

    def _check_number(self, generations: Sequence[Generation]) -> None:
        most = self.model.traits.max_sequences
        if most is None or sum(one.n for one in generations[:-1]) < most:
            return
        asked = sum(one.n for one in generations)
        raise BadRequest(
            f"'prompt' asks for {asked} answers ({len(generations)} prompts, 'n' is {generations[0].n}), and this "
            f"model takes {most} at once, those that wait among them.",
            param="prompt",
        )
