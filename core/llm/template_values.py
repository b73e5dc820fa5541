"""What a chat template may do to texts: their methods and formats, with the size of each result known beforehand."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from jinja2.sandbox import SandboxedFormatter

if TYPE_CHECKING:
    from .sandbox import Sandbox

__all__ = ["TEXT_METHODS", "TextMethod", "percent"]

_PLAIN = (
    *("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal"),
    *("isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "lower"),
    *("lstrip", "removeprefix", "removesuffix", "rfind", "rindex", "rstrip", "startswith", "strip", "swapcase"),
    *("title", "upper"),
)
_LISTING = ("partition", "rpartition", "rsplit", "split", "splitlines")
_PADDING = ("center", "ljust", "rjust", "zfill")
TEXT_METHODS = frozenset((*_PLAIN, *_LISTING, *_PADDING, "expandtabs", "format", "format_map", "join", "replace"))
_WIDTH = re.compile(r"\d+")
_PERCENT = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+)?)?")
_MOST_WIDTH = 10_000


def _check_width(text: str) -> int:
    if len(text) > 5 or int(text) > _MOST_WIDTH:
        raise TemplateError(f"it formats to a width of more than {_MOST_WIDTH}")
    return int(text)


class TextMethod:
    """A method of a text, ready to be called."""

    __slots__ = ("_name", "_sandbox", "_text")

    def __init__(self, sandbox: "Sandbox", text: str, name: str) -> None:
        self._sandbox = sandbox
        self._text = text
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Charge what the call makes, and make it."""
        text, name, budget = self._text, self._name, self._sandbox.budget
        charge = _CHARGES.get(name)
        if charge is not None:
            args = charge(self._sandbox, text, args, kwargs)
        elif name in ("format", "format_map"):
            return self._format(args, kwargs)
        budget.text(len(text))
        found = getattr(text, name)(*args, **kwargs)
        if name in _LISTING:
            budget.step(len(found))
        return found

    def _format(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        if self._name == "format_map":
            if len(args) != 1 or kwargs or not isinstance(args[0], dict):
                raise TypeError("format_map() takes exactly one object")
            kwargs, args = args[0], ()
        self._sandbox.budget.text(len(self._text))
        return _Formatter(self._sandbox).vformat(self._text, args, kwargs)


class _Formatter(SandboxedFormatter):
    """Formats as `str.format` does, and charges each field."""

    def __init__(self, sandbox: "Sandbox") -> None:
        super().__init__(sandbox)
        self._sandbox = sandbox

    def format_field(self, value: Any, format_spec: str) -> Any:
        """Return a field as text."""
        budget = self._sandbox.budget
        budget.step()
        widths = [_check_width(width) for width in _WIDTH.findall(format_spec)]
        if type(value) not in (int, float):
            value = budget.write(value)
        budget.text(sum(widths))
        return format(value, format_spec)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """Return a field as `!s` or `!r` want it."""
        if conversion is not None and type(value) is not str:
            value = self._sandbox.budget.write(value)
        elif conversion is not None:
            self._sandbox.budget.text(10 * len(value))
        return super().convert_field(value, conversion)


def percent(sandbox: "Sandbox", text: str, values: Any) -> str:
    """Return `text % values`."""
    budget = sandbox.budget
    widths = 0
    count = 0
    for match in _PERCENT.finditer(text):
        count += 1
        for width in (match["width"], match["precision"]):
            if width == "*":
                raise TemplateError("it formats to a width that is not in the template")
            widths += _check_width(width) if width else 0
    parts = values if type(values) is tuple else tuple(values.values()) if type(values) is dict else (values,)
    longest = max((len(part) if type(part) is str else budget.weigh(part) for part in parts), default=0)
    whole = budget.weigh(values) if type(values) is dict else 0
    budget.text(len(text) + widths + 2 * count * (longest + whole + 400))
    found: str = text % values
    return found


def _pad(sandbox: "Sandbox", text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    if args and isinstance(args[0], int):
        sandbox.budget.text(max(0, args[0]))
    return args


def _expand(sandbox: "Sandbox", text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    size = args[0] if args else kwargs.get("tabsize", 8)
    if isinstance(size, int):
        sandbox.budget.text(text.count("\t") * max(0, size))
    return args


def _replace(sandbox: "Sandbox", text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    if len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        sandbox.budget.text(text.count(args[0]) * len(args[1]))
    return args


def _join(sandbox: "Sandbox", text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    if len(args) != 1:
        return args
    parts = sandbox.budget.listed(args[0])
    sandbox.budget.text(sum(len(part) for part in parts if isinstance(part, str)) + len(text) * len(parts))
    return (parts,)


_Charge = Callable[["Sandbox", str, tuple[Any, ...], Mapping[str, Any]], tuple[Any, ...]]
_CHARGES: Mapping[str, _Charge] = {
    **dict.fromkeys(_PADDING, _pad),
    "expandtabs": _expand,
    "replace": _replace,
    "join": _join,
}
