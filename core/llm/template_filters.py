"""The filters of chat templates: Jinja's, each charged for what it makes, and Transformers' `tojson`."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, pass_environment
from jinja2 import filters as jinja
from jinja2.runtime import Undefined

from .template_values import TextMethod

if TYPE_CHECKING:
    from .sandbox import Sandbox

__all__ = ["FILTERS"]

_MOST = 10_000


def _limit(name: str, value: Any) -> int:
    number = int(value)
    if abs(number) > _MOST:
        raise TemplateError(f"the filter {name} is given a number beyond {_MOST}")
    return number


def _textual(work: Callable[..., Any], growth: int = 1, *, takes_environment: bool = False) -> Callable[..., Any]:
    """Return a filter of texts; what it makes is at most `growth` times as long."""

    @pass_environment
    def filter(sandbox: "Sandbox", value: Any, *args: Any, **kwargs: Any) -> Any:
        text = sandbox.budget.write(value)
        sandbox.budget.text(growth * len(text))
        if takes_environment:
            return work(sandbox, text, *args, **kwargs)
        return work(text, *args, **kwargs)

    return filter


def _listing(work: Callable[..., Any], *, takes_environment: bool = False) -> Callable[..., Any]:
    """Return a filter of lists, all of whose members it looks at."""

    @pass_environment
    def filter(sandbox: "Sandbox", value: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(value, Undefined):
            value = sandbox.budget.listed(value)
        if takes_environment:
            return work(sandbox, value, *args, **kwargs)
        return work(value, *args, **kwargs)

    return filter


@pass_environment
def _tojson(
    sandbox: "Sandbox",
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON as Transformers' templates expect it: nothing is escaped for HTML."""
    size = sandbox.budget.weigh(value)
    step = len(indent) if isinstance(indent, str) else _limit("tojson", indent or 0)
    sandbox.budget.text(2 * size + size * max(0, step))
    if separators is not None:
        separators = tuple(separators)
        sandbox.budget.text(size * sum(len(str(one)) for one in separators))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_environment
def _string(sandbox: "Sandbox", value: Any) -> str:
    return sandbox.budget.write(value)


@pass_environment
def _list(sandbox: "Sandbox", value: Any) -> list[Any]:
    return sandbox.budget.listed(value)


@pass_environment
def _join(sandbox: "Sandbox", value: Any, d: Any = "", attribute: Any = None) -> str:
    budget = sandbox.budget
    members = budget.listed(value)
    if attribute is not None:
        members = list(map(jinja.make_attrgetter(sandbox, attribute), members))
    between = budget.write(d)
    budget.text(len(between) * len(members))
    return between.join([budget.write(member) for member in members])


@pass_environment
def _replace(sandbox: "Sandbox", s: Any, old: Any, new: Any, count: int | None = None) -> Any:
    text, old, new = (sandbox.budget.write(value) for value in (s, old, new))
    return TextMethod(sandbox, text, "replace")(old, new, -1 if count is None else count)


@pass_environment
def _format(sandbox: "Sandbox", value: Any, *args: Any, **kwargs: Any) -> Any:
    return sandbox.call_binop(None, "%", sandbox.budget.write(value), kwargs or args)


@pass_environment
def _indent(sandbox: "Sandbox", s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = sandbox.budget.write(s)
    step = len(width) if isinstance(width, str) else _limit("indent", width)
    sandbox.budget.text(len(text) + step * (len(text.splitlines()) + 1))
    return str(jinja.do_indent(text, width, first, blank))


@pass_environment
def _center(sandbox: "Sandbox", value: Any, width: int = 80) -> str:
    return sandbox.budget.write(value).center(_limit("center", width))


@pass_environment
def _wordwrap(
    sandbox: "Sandbox", s: Any, width: int = 79, break_long_words: bool = True, wrapstring: str = "\n"
) -> str:
    text = sandbox.budget.write(s)
    sandbox.budget.text(len(text) * (1 + len(wrapstring)))
    return jinja.do_wordwrap(sandbox, text, max(1, int(width)), break_long_words, wrapstring)


@pass_environment
def _batch(sandbox: "Sandbox", value: Any, linecount: int, fill_with: Any = None) -> list[Any]:
    sandbox.budget.step(_limit("batch", linecount))
    return list(jinja.do_batch(sandbox.budget.listed(value), linecount, fill_with))


@pass_environment
def _slice(sandbox: "Sandbox", value: Any, slices: int, fill_with: Any = None) -> list[Any]:
    sandbox.budget.step(_limit("slice", slices))
    return list(jinja.sync_do_slice(sandbox.budget.listed(value), slices, fill_with))


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    return jinja.do_round(value, max(-20, min(20, int(precision))), method)


@pass_environment
def _sum(sandbox: "Sandbox", iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    if type(start) not in (int, float):
        raise TemplateError("the filter sum adds numbers only")
    members = sandbox.budget.listed(iterable)
    if attribute is not None:
        members = list(map(jinja.make_attrgetter(sandbox, attribute), members))
    return sum(members, start)


@pass_environment
def _attr(sandbox: "Sandbox", obj: Any, name: str) -> Any:
    return sandbox.getattr(obj, str(name))


@pass_environment
def _escape(sandbox: "Sandbox", value: Any) -> str:
    text = sandbox.budget.write(value)
    sandbox.budget.text(6 * len(text))
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(plain, escaped)
    return text


@pass_environment
def _reverse(sandbox: "Sandbox", value: Any) -> Any:
    return sandbox.cut(value, None, None, -1) if isinstance(value, str) else sandbox.budget.listed(value)[::-1]


def _same(*names: str) -> dict[str, Callable[..., Any]]:
    return {name: jinja.FILTERS[name] for name in names}


FILTERS: Mapping[str, Callable[..., Any]] = {
    **_same("abs", "d", "default", "filesizeformat", "first", "float", "int", "items", "last", "length", "count"),
    **_same("map", "reject", "rejectattr", "select", "selectattr"),
    "attr": _attr,
    "batch": _batch,
    "capitalize": _textual(jinja.do_capitalize, 2),
    "center": _center,
    "dictsort": jinja.FILTERS["dictsort"],
    "e": _escape,
    "escape": _escape,
    "forceescape": _escape,
    "format": _format,
    "groupby": _listing(jinja.sync_do_groupby, takes_environment=True),
    "indent": _indent,
    "join": _join,
    "list": _list,
    "lower": _textual(jinja.do_lower, 2),
    "max": _listing(jinja.do_max, takes_environment=True),
    "min": _listing(jinja.do_min, takes_environment=True),
    "pprint": _string,
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "safe": _string,
    "slice": _slice,
    "sort": _listing(jinja.do_sort, takes_environment=True),
    "string": _string,
    "striptags": _textual(jinja.do_striptags, 1),
    "sum": _sum,
    "title": _textual(jinja.do_title, 2),
    "tojson": _tojson,
    "trim": _textual(jinja.do_trim, 1),
    "truncate": _textual(jinja.do_truncate, 1, takes_environment=True),
    "unique": _listing(
        lambda sandbox, *args, **kwargs: list(jinja.do_unique(sandbox, *args, **kwargs)), takes_environment=True
    ),
    "upper": _textual(jinja.do_upper, 3),
    "urlencode": _textual(jinja.do_urlencode, 12),
    "wordcount": _textual(jinja.do_wordcount, 1),
    "wordwrap": _wordwrap,
}
