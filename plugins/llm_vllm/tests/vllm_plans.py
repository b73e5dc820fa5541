"""Launch plans, and models whose tokenizer is a few lines long."""

from pathlib import Path
from typing import Any

from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack.llm.formats.registered import FORMATS
from modelrack.testing.recital import CHAT_TEMPLATE
from modelrack_llm_vllm.options import VllmOptions
from modelrack_llm_vllm.served import Served, Tokens
from modelrack_llm_vllm.settings import Settings

__all__ = ["CHAT_TEMPLATE", "Bytes", "make_plan", "make_served"]


def make_plan(path: str = "/models/it", **more: Any) -> LoadPlan:
    """Return a plan; `options` are checked as a launch checks them."""
    options = VllmOptions.model_validate(more.pop("options", {})).model_dump(mode="json")
    family = more.pop("family", None) or Family(name="it", model_type="LLM")
    return LoadPlan(
        model_uid="it",
        family=family,
        variant=Variant(format="pytorch"),
        quantization="none",
        files=ModelFiles(path=path, format="pytorch"),
        options=options,
        output_formats=FORMATS,
        python="/environment/bin/python",
        **more,
    )


class Bytes:
    """A tokenizer of bytes, with what the plugin calls of Transformers' ones."""

    bos_token_id = 256
    bos_token, eos_token = "<bos>", "<eos>"
    all_special_tokens = ("<bos>", "<eos>")

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the bytes."""
        return [256] * add_special_tokens + list(text.encode())

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text."""
        return bytes(one for one in ids if one < 256).decode("utf-8", "replace")

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Return names."""
        names = [*(chr(one) for one in range(256)), "<bos>", "<eos>", None]
        return names[ids] if isinstance(ids, int) else [names[one] for one in ids]


def make_served(template: str | None = CHAT_TEMPLATE, *, takes_images: bool = False, **settings: Any) -> Served:
    """Return a model that is served."""
    given = Settings(model_uid="it", output_formats=FORMATS, **settings)
    return Served(given, Tokens(Bytes(), 100, 259, template), template=template, takes_images=takes_images)


def flags(argv: tuple[str, ...]) -> dict[str, str]:
    """Return the values of the flags of a command line; a flag without one has an empty value."""
    found: dict[str, str] = {}
    for index, word in enumerate(argv):
        if word.startswith("--"):
            following = argv[index + 1] if index + 1 < len(argv) else "--"
            name, _, value = word.partition("=")
            found[name] = value or ("" if following.startswith("--") else following)
    return found


def write_template(folder: Path, source: str) -> Path:
    """Write a chat template as model folders have it."""
    (folder / "chat_template.jinja").write_text(source)
    return folder
