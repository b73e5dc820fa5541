"""The Jinja sandbox that chat templates run in: nothing of Python can be reached, and everything costs.

A template is data from a model's files. It sees texts, numbers, lists and objects, and some of their methods; it cannot
change what it is given. Its source is rewritten before it is compiled, so that each iteration and each body charges a
budget, and what makes texts and lists is charged for their size before they are made.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context, pass_environment
from jinja2.exceptions import TemplateAssertionError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, TemplateReference, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Namespace
from jinja2.visitor import NodeTransformer

from .template_budget import Budget
from .template_filters import FILTERS
from .template_values import TEXT_METHODS, TextMethod, percent

__all__ = ["Sandbox"]

_BITS = 4096
"""Most bits of a whole number that a template computes."""
_LOOP = ("changed", "cycle", "depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem")
_NAMES: Mapping[type, frozenset[str]] = {
    dict: frozenset(("get", "items", "keys", "values")),
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index")),
    LoopContext: frozenset((*_LOOP, "revindex", "revindex0")),
    Macro: frozenset(("arguments", "caller", "catch_kwargs", "catch_varargs", "name")),
    Cycler: frozenset(("current", "next", "reset")),
    BlockReference: frozenset(("super",)),
}
"""What templates may reach, by the type."""
_NONE: frozenset[str] = frozenset()


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja as Transformers sets it up for chat templates.

    `budget` is that of the rendering under way; a sandbox renders one template at a time.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            # What can be computed beforehand would be, without any charge.
            optimized=False,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=_finalize,
        )
        self.budget = Budget(0)
        self.filters = {**FILTERS, "#step": _step, "#each": _each, "#concat": _concat, "#built": _built, "#cut": _cut}
        self.globals = {
            "cycler": Cycler,
            "dict": self._dict,
            "namespace": Namespace,
            "raise_exception": _raise,
            "range": self._range,
            "strftime_now": _now,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Rewriter().visit(Parser(self, source, name, filename).parse())
        assert isinstance(tree, nodes.Template)
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return `obj.attribute`: what may be reached of the type, else a member of that name."""
        kind = type(obj)
        if attribute in _NAMES.get(kind, _NONE):
            return getattr(obj, attribute)
        if kind is dict:
            try:
                return obj[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        if kind is str and attribute in TEXT_METHODS:
            return TextMethod(self, obj, attribute)
        if attribute.startswith("_"):
            return self.unsafe_undefined(obj, attribute)
        if kind is Namespace or isinstance(obj, Undefined):
            try:
                return getattr(obj, attribute)
            except AttributeError:
                return self.undefined(obj=obj, name=attribute)
        if kind is TemplateReference:
            return obj[attribute]
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return `obj[argument]`: a member, else what may be reached under that name."""
        kind = type(obj)
        if kind is dict or kind is list or kind is str or kind is tuple:
            try:
                return obj[argument]
            except (KeyError, IndexError, TypeError):
                pass
        if type(argument) is str:
            return self.getattr(obj, argument)
        if isinstance(obj, Undefined):
            return obj[argument]
        return self.undefined(obj=obj, name=argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what templates can reach; each call is a step."""
        __self.budget.step()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute what may grow."""
        return _OPERATORS[operator](self, left, right)

    def cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """Return a part of a text or list."""
        if type(value) is str:
            self.budget.text(len(value))
        elif type(value) in (list, tuple):
            self.budget.step(len(value))
        return value[start:stop:step]

    def _range(self, *limits: int) -> range:
        found = range(*limits)
        self.budget.step(len(found) // 100)
        if len(found) > 1_000_000:
            raise TemplateError("it counts too far")
        return found

    def _dict(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        found = dict(*args, **kwargs)
        self.budget.weigh(found)
        return found


def _raise(message: Any) -> NoReturn:
    raise TemplateError(str(message)[:2000])


def _now(format: str) -> str:
    if len(format) > 100:
        raise TemplateError("the format of the time is too long")
    return datetime.now().strftime(format)


@pass_context
def _finalize(context: Context, value: Any) -> str:
    """Return what is written into the prompt."""
    budget: Budget = context.environment.budget  # type: ignore[attr-defined]  # a Sandbox
    return budget.write(value)


@pass_environment
def _step(sandbox: Sandbox, length: int) -> bool:
    """Charge a body that is run: a step, and the text in it."""
    sandbox.budget.step()
    if length:
        sandbox.budget.text(length)
    return False


@pass_environment
def _each(sandbox: Sandbox, values: Any) -> Any:
    """Charge a loop that may leave out members without ever running its body."""
    return values if isinstance(values, Undefined) else sandbox.budget.listed(values)


@pass_environment
def _concat(sandbox: Sandbox, parts: Sequence[Any]) -> str:
    write = sandbox.budget.write
    return "".join([write(part) for part in parts])


@pass_environment
def _built(sandbox: Sandbox, value: Any) -> Any:
    sandbox.budget.weigh(value)
    return value


@pass_environment
def _cut(sandbox: Sandbox, value: Any, start: Any, stop: Any, step: Any) -> Any:
    return sandbox.cut(value, start, stop, step)


def _add(sandbox: Sandbox, left: Any, right: Any) -> Any:
    kinds = type(left), type(right)
    if kinds == (str, str):
        sandbox.budget.text(len(left) + len(right))
    elif kinds in ((list, list), (tuple, tuple)):
        sandbox.budget.step(len(left) + len(right))
    return left + right


def _multiply(sandbox: Sandbox, left: Any, right: Any) -> Any:
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int):
            if type(value) is str:
                sandbox.budget.text(len(value) * max(0, times))
            elif type(value) in (list, tuple):
                sandbox.budget.step(len(value) * max(0, times))
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _BITS:
        raise TemplateError("it computes a number that is too large")
    return left * right


def _power(sandbox: Sandbox, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * max(0, right) > _BITS:
        raise TemplateError("it computes a number that is too large")
    return left**right


def _modulo(sandbox: Sandbox, left: Any, right: Any) -> Any:
    return percent(sandbox, left, right) if type(left) is str else operator.mod(left, right)


_OPERATORS: Mapping[str, Callable[[Sandbox, Any, Any], Any]] = {
    "+": _add,
    "*": _multiply,
    "**": _power,
    "%": _modulo,
}


class _Generation(Extension):
    """`{% generation %}`: marks what the model says, for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  # as the base class declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _charge(body: Sequence[nodes.Node]) -> nodes.Node:
    """Return the statement that charges one run of a body."""
    length = sum(len(text.data) for node in body for text in node.find_all(nodes.TemplateData))
    line = body[0].lineno if body else 0
    call = nodes.Filter(nodes.Const(length, lineno=line), "#step", [], [], None, None, lineno=line)
    return nodes.ExprStmt(call, lineno=line)


class _Rewriter(NodeTransformer):
    """Puts the charges into a template."""

    def _body(self, node: Any) -> Any:
        charge = _charge(node.body)
        self.generic_visit(node)
        node.body.insert(0, charge)
        return node

    visit_Macro = visit_CallBlock = visit_Block = _body

    def visit_For(self, node: Any) -> Any:
        self._body(node)
        if node.test is not None:
            node.iter = self._filter("#each", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._filter("#concat", nodes.List(node.nodes, lineno=node.lineno))

    def _literal(self, node: Any) -> Any:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load":
            return node
        members = node.items
        if all(isinstance(one, (nodes.Const, nodes.TemplateData)) for one in members):
            return node
        return self._filter("#built", node)

    visit_List = visit_Tuple = visit_Dict = _literal

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        limits = [
            one or nodes.Const(None, lineno=node.lineno) for one in (node.arg.start, node.arg.stop, node.arg.step)
        ]
        return self._filter("#cut", node.node, limits)

    def _refuse(self, node: nodes.Node) -> NoReturn:
        kind = type(node).__name__.lower()
        raise TemplateAssertionError(f"a chat template cannot use '{kind}'", node.lineno)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = _refuse
    visit_ScopedEvalContextModifier = visit_EvalContextModifier = _refuse

    def _filter(self, name: str, value: nodes.Expr, arguments: Sequence[nodes.Expr] = ()) -> nodes.Expr:
        return nodes.Filter(value, name, list(arguments), [], None, None, lineno=value.lineno)
