"""What the kit is pointed at: an engine, and small models that it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from .. import hf, hf_extras
from ..gguf import Shape, write_random_model
from ..gguf_extras import write_adapter, write_projector
from ..recital import write_recital

__all__ = ["CUE", "ROLES", "SCRIPTS", "SPECIAL", "BaseSubject", "Model", "Subject", "gguf_models", "hf_models"]

SPECIAL = "<|mark|>"
"""A special token of the models that recite; it stands in the script `special`."""

SCRIPTS: Mapping[str, str] = {
    "count": "One two three four five six seven eight nine ten eleven twelve.",
    "border": "xx abacabadabacab yy abab END abc",
    "utf8": "Grüße, 你好 🐋🦭! नमस्ते é done",
    "special": f"before {SPECIAL}after it",
    "think": "<think>\nTwo and two\nare four.\n</think>\n\nThe answer is 4.",
    "call": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln", "days": 3}}\n</tool_call>',
    "calls": 'I ask for both.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "switch", "arguments": {"on": true}}\n</tool_call>',
    "reasoned_call": "<think>\nBetter turn it off.\n</think>\n\n"
    '<tool_call>\n{"name": "switch", "arguments": {"on": false}}\n</tool_call>',
    "broken_call": '<tool_call>\n{"name": "get_weather", "arguments": {"city":\n</tool_call> so it is.',
}
"""What a model that recites writes, by names. Calls are written as Hermes models do, reasoning as Qwen models do."""

CUE = "@"
"""The models of `gguf_models` recite a script when the last message is this and the script's name."""

ROLES: Mapping[str, str] = {
    "main": "answers chats and completions at some length (512 tokens and more), with a context of at least 2048",
    "reciter": "writes the texts of SCRIPTS; its `cue` says what to say for that",
    "adapted": "has LoRA adapters, named in `adapters`; each changes the greedy answer",
    "seeing": "reads images",
    "speculating": "is the main model with tokens drafted ahead",
}
"""What the models of a subject are for. `main` is needed; each of the others by the features that it stands for."""

Maker: TypeAlias = Callable[[Path], Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model to launch.

    Args:
        name: as at a launch, a family or a path; or what writes it into a folder and returns its path.
        options: options of the engine for it; a function gets the folder, and may write further files there.
        adapters: LoRA adapters by name: what writes each into a folder and returns its path.
        cue: of a reciter: the user's message after which it writes a script, by the script's name.
    """

    name: str | Maker
    options: Mapping[str, Any] | Callable[[Path], Mapping[str, Any]] = field(default_factory=dict)
    adapters: Mapping[str, Maker] = field(default_factory=dict)
    cue: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSubject:
    """An engine and the models to test it with.

    Args:
        engine: its name.
        models: by what they are for, see `roles`.
        options: options of the engine for all of them.
        environment: where its worker runs, as at a launch: `server`, `isolated` or a path; None: as it comes.
        launch_s: the most that a launch may take, and coming back after the worker was killed.
        answer_s: the most that an answer may take.
        idle_s: within this time after its clients have left, it computes no more.
        idle_share: what part of one processor an idle worker uses at most: more than the default where it polls.
    """

    model_type: ClassVar[str]
    roles: ClassVar[Mapping[str, str]]

    engine: str
    models: Mapping[str, Model]
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None
    launch_s: float = 120
    answer_s: float = 60
    idle_s: float = 10
    idle_share: float = 0.05

    def problems(self) -> list[str]:
        """Return what makes the subject no subject at all."""
        roles = self.roles
        found = [f"'{role}' is no role; roles are {', '.join(roles)}" for role in self.models if role not in roles]
        if "main" not in self.models:
            found.append("it brings no model 'main'")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject(BaseSubject):
    """An engine of language models and the models to test it with, for the roles in `ROLES`.

    Args:
        grammar: in the engine's own language: `yes` or `no`.
        is_random: what is sampled differs from seed to seed; False for an engine that knows one answer only.
        questions: questions that some launchable model answers right, by its name: (question, part of the answer).
        without: features that the engine claims, but not for these models; their tests are left out. Another subject
            must stand for them.
    """

    model_type: ClassVar[str] = "LLM"
    roles: ClassVar[Mapping[str, str]] = ROLES

    grammar: str = 'root ::= "yes" | "no"'
    is_random: bool = True
    questions: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """Return what makes the subject no subject at all."""
        found = BaseSubject.problems(self)
        if "reciter" in self.models and self.models["reciter"].cue is None:
            found.append("its model 'reciter' has no cue")
        if "adapted" in self.models and not self.models["adapted"].adapters:
            found.append("its model 'adapted' has no adapters")
        return found


# In float32 a batch rounds almost as one sequence does, so that no near tie is decided another way.
_SHAPE = Shape(file_type="f32")


def _write_main(folder: Path) -> Path:
    return write_random_model(folder / "main.gguf", _SHAPE)


_SCRIPTS = {CUE + name: text for name, text in SCRIPTS.items()}


def _write_reciter(folder: Path) -> Path:
    return write_recital(folder / "reciter.gguf", _SCRIPTS, controls=(SPECIAL,))


def _write_adapter(seed: int) -> Maker:
    return lambda folder: write_adapter(folder / f"adapter-{seed}.gguf", _SHAPE, seed=seed)


def gguf_models(*, projector: str | None = "mmproj", draft: str | None = "draft_model") -> dict[str, Model]:
    """Return models for all roles as small GGUF files.

    They choose nearly by chance, so what an engine rounds may change their answers: where it can be told to
    (`Subject`'s options), it should keep its attention cache in float32.

    Args:
        projector: the engine's option that names a projector for images; None: no model that sees.
        draft: its option that names a model to draft tokens with; None: no model that drafts.
    """
    models = {
        "main": Model(name=_write_main),
        "reciter": Model(name=_write_reciter, cue=lambda name: CUE + name),
        "adapted": Model(name=_write_main, adapters={"first": _write_adapter(1), "second": _write_adapter(2)}),
    }
    if projector is not None:
        models["seeing"] = Model(
            name=_write_main, options=lambda folder: {projector: str(write_projector(folder / "projector.gguf"))}
        )
    if draft is not None:
        # A model drafts best for itself.
        models["speculating"] = Model(name=_write_main, options=lambda folder: {draft: str(folder / "main.gguf")})
    return models


def _write_hf_main(folder: Path) -> Path:
    return hf.write_random_model(folder / "main")


def _write_hf_reciter(folder: Path) -> Path:
    return hf.write_recital(folder / "reciter", _SCRIPTS, controls=(SPECIAL,))


def _write_hf_seeing(folder: Path) -> Path:
    return hf_extras.write_seeing_model(folder / "seeing")


def _write_hf_adapter(seed: int) -> Maker:
    return lambda folder: hf.write_adapter(folder / f"adapter-{seed}", seed=seed)


def hf_models(*, images: bool = True, draft: Callable[[Path], Mapping[str, Any]] | None = None) -> dict[str, Model]:
    """Return models for all roles as small Hugging Face folders; those of `gguf_models`, but for the one that sees.

    Args:
        images: with a model that sees.
        draft: what makes the engine draft tokens for a model, given the path of the model itself, which drafts best for
            it: options. None: no model that drafts.
    """
    models = {
        "main": Model(name=_write_hf_main),
        "reciter": Model(name=_write_hf_reciter, cue=lambda name: CUE + name),
        "adapted": Model(name=_write_hf_main, adapters={"first": _write_hf_adapter(1), "second": _write_hf_adapter(2)}),
    }
    if images:
        models["seeing"] = Model(name=_write_hf_seeing)
    if draft is not None:
        models["speculating"] = Model(name=_write_hf_main, options=lambda folder: draft(folder / "main"))
    return models
