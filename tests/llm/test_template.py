"""Chat templates: what they may use, what they may not reach, and what they may cost."""

from typing import Any

import pytest

from modelrack.errors import LaunchFailed
from modelrack.llm.template import ChatTemplate, TemplateFailed

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "<hello> wörld"}]


def render(source: str, **values: Any) -> str:
    """Render a template with two messages."""
    given = {"messages": MESSAGES, "tools": None, "add_generation_prompt": True, **values}
    return ChatTemplate(source, {"bos_token": "<s>"}).render(given)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] }}{% endfor %}", None),
        ("{{ messages[1].content | tojson }}", '"<hello> wörld"'),
        ("{{ {'b': 1, 'a': [1, 'é']} | tojson }}", '{"b": 1, "a": [1, "é"]}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=2, sort_keys=true) }}", '{\n  "a": 2,\n  "b": 1\n}'),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "0234"),
        ("{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("a\n  {% if true %}\n  b\n  {% endif %}\nc", "a\n  b\nc"),
        ("{% generation %}said{% endgeneration %}.", "said."),
        ("{% for m in messages[::-1] %}{{ m.role[:3] }}{{ loop.last }}{% endfor %}", "useFalsesysTrue"),
        ("{{ messages | map(attribute='role') | join(', ') }}", "system, user"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{% for k, v in {'a': 1, 'b': none} | items %}{{ k }}={{ v }};{% endfor %}", "a=1;b=None;"),
        ("{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{% endfor %}", "ab"),
        ("{{ 'a,b'.split(',') | last | upper }}{{ ' x '.strip() }}{{ 'abc'.replace('b', '-') }}", "Bxa-c"),
        ("{{ '%s is %d' | format('x', 3) }} {{ '%.2f' % 1.5 }} {{ '{:>4}|{}'.format('a', 2) }}", "x is 3 1.50    a|2"),
        ("{{ 'a' ~ 1 ~ none ~ [1] }}", "a1None[1]"),
        ("{% macro tag(x, y='-') %}<{{ x }}{{ y }}>{% endmacro %}{{ tag('a') }}{{ tag('b', y='!') }}", "<a-><b!>"),
        ("{% macro nest(n) %}({{ nest(n - 1) if n }}){% endmacro %}{{ nest(3) }}", "(((())))"),
        ("{% macro w() %}[{{ caller() }}]{% endmacro %}{% call w() %}in{% endcall %}", "[in]"),
        ("{% set x %}{{ messages[0].role }}!{% endset %}{{ x | capitalize }}", "System!"),
        ("{% filter upper %}abc{% endfilter %}", "ABC"),
        ("{{ 'one\ntwo' | indent(2) }}", "one\n  two"),
        ("{{ nothing is defined }}{{ tools is none }}{{ messages is sequence }}{{ 1 is number }}", "FalseTrueTrueTrue"),
        ("{{ nothing | default('d') }}{{ nothing }}{{ messages[0].nothing }}", "d"),
        ("{{ 'user' in messages[1].role }}{{ messages | length + 1 }}{{ 7 // 2 }}{{ 2 ** 5 }}", "True3332"),
        ("{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "123"),
        ("{{ messages[0].items() | list | length }}{{ messages[0].get('x', '-') }}", "2-"),
        ("{{ messages[0].keys() | list }}", "['role', 'content']"),
        ("{{ dict(a=1).a }}{{ [3, 1, 2] | sort | join }}{{ [1, 1] | unique | list }}{{ [1, 2] | sum }}", "1123[1]3"),
    ],
)  # fmt: skip
def test_templates_can_use(source: str, expected: str | None) -> None:
    assert render(source) == (expected or "<s>[system]Be kind.[user]<hello> wörld")


def test_time_is_there() -> None:
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__ }}{{ ''['__class__'] }}{{ '' | attr('__class__') }}",
        "{{ messages | map(attribute='__class__') | join }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ '{0[__class__]}'.format('') }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ raise_exception.__code__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ self.__init__.__globals__ }}",
        "{{ loop.__class__ }}",
        "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}{{ m._environment }}",
        "{% for x in [1] %}{{ loop._iterable }}{{ loop.__init__ }}{% endfor %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ 'a'.encode() }}{{ 'a'.translate({}) }}",
        "{{ (1).real }}{{ (1).to_bytes(2) }}",
        "{{ messages | map('attr', '__class__') | list }}",
        "{{ nothing.__class__.__base__.__subclasses__() }}",
        "{{ request }}{{ config }}{{ lipsum }}{{ joiner }}{{ __import__ }}{{ context }}{{ environment }}",
        "{{ namespace }}",
        "{{ range }}",
        "{{ messages.pop }}",
        "{% set messages.x = 1 %}",
    ],
)  # fmt: skip
def test_nothing_of_python_can_be_reached(source: str) -> None:
    """Whether it is refused or empty: nothing but what was given comes out, and nothing that was given changes."""
    before = [dict(message) for message in MESSAGES]
    try:
        text = render(source)
    except (TemplateFailed, LaunchFailed) as error:
        text = error.message
    assert not any(word in text for word in ("<class", "<function", "object at", "<module", "bound method", "builtins"))
    assert before == MESSAGES


GROW = "{% set n = namespace(x='ab') %}{% for i in range(99) %}"
LENGTHEN = "{% set n = namespace(x=[1]) %}{% for i in range(99) %}"
MANY = "{% for i in range(99999) %}"
BOMBS = [
    MANY + MANY + MANY + "x{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "{{ range(10 ** 12) | list }}",
    "{{ 'a' * 10 ** 12 }}",
    "{{ 10 ** 12 * 'a' }}",
    "{{ [0] * 10 ** 12 }}",
    GROW + "{% set n.x = n.x + n.x %}{% endfor %}",
    GROW + "{% set n.x = n.x ~ n.x %}{% endfor %}",
    GROW + "{% set n.x = '%s%s' % (n.x, n.x) %}{% endfor %}",
    GROW + "{% set n.x = '{0}{0}'.format(n.x) %}{% endfor %}",
    GROW + "{% set n.x = [n.x, n.x] | join %}{% endfor %}",
    GROW + "{% set n.x = n.x.join(['', '', '']) %}{% endfor %}",
    GROW + "{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
    GROW + "{% set n.x = n.x | replace('a', n.x) %}{% endfor %}",
    GROW + "{% set x %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = x %}{% endfor %}",
    LENGTHEN + "{% set n.x = n.x + n.x %}{% endfor %}",
    LENGTHEN + "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    LENGTHEN + "{% set n.x = {'a': n.x, 'b': n.x} %}{% endfor %}{{ n.x | tojson }}",
    LENGTHEN + "{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}{{ n.x | string }}",
    "{% set n = namespace(x=2) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ '%.999999999f' % 1.0 }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 999999999) }}",
    "{{ 'a'.center(10 ** 12) }}",
    "{{ 'a'.zfill(10 ** 12) }}",
    "{{ '\t'.expandtabs(10 ** 12) }}",
    "{{ 'a' | center(10 ** 12) }}",
    "{{ 'a' | indent(10 ** 12, true) }}",
    "{{ [1] | tojson(indent=10 ** 12) }}",
    "{{ [1] | batch(10 ** 12, 'x') | list }}",
    "{{ [1] | slice(10 ** 12) | list }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n < 50 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}{{ f(0) }}",
    "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% for i in range(99999) %}" + "x" * 5000 + "{% endfor %}",
    "{{ strftime_now('%c' * 1000) }}",
]  # fmt: skip


@pytest.mark.parametrize("source", BOMBS)
def test_what_costs_too_much_is_refused(source: str) -> None:
    with pytest.raises(TemplateFailed):
        render(source)


def test_what_would_be_computed_at_the_launch_is_refused_only_when_it_is_run() -> None:
    """Jinja computes constants when it compiles; a bomb there would go off at the launch."""
    source = "{% if bomb %}{{ 'a' * 10 ** 12 }}{{ 'x' | center(10 ** 12) }}{% endif %}ok"
    assert render(source) == "ok"


def test_long_chats_are_no_bomb() -> None:
    messages = [{"role": "user", "content": "x" * 1000}] * 3000
    source = "{% set n = namespace(t='') %}{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}"
    assert len(render(source, messages=messages)) == 3000 * 1004


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('Roles must alternate.') }}", "Roles must alternate."),
        ("{{ messages[0].nothing.more }}", "nothing"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ nothing() }}", "'nothing' is undefined"),
        ("{{ messages[0].nothing | tojson }}", "Undefined"),
        ("{{ messages[0].content | truncate(-5) }}", "expected length"),
    ],
)
def test_what_fails_is_a_bad_request_with_the_reason(source: str, words: str) -> None:
    with pytest.raises(TemplateFailed) as caught:
        render(source)
    assert caught.value.status == 400
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for %}", "line 1"),
        ("\n\n{{ 'a' | nonsense }}", "line 3: No filter named 'nonsense'."),
        ("{% include 'etc/passwd' %}", "cannot use 'include'"),
        ("{% extends 'x' %}", "cannot use 'extends'"),
        ("{% import 'x' as y %}", "cannot use 'import'"),
        ("{% autoescape true %}{% endautoescape %}", "cannot use"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
        ("x" * 1_000_001, "too long"),
        ("{{ a | #step }}", "line 1"),
    ],
)
def test_what_cannot_be_compiled_fails_the_launch(source: str, words: str) -> None:
    with pytest.raises(LaunchFailed, match=r"chat template") as caught:
        ChatTemplate(source, {})
    assert words in caught.value.message


def test_what_a_template_reads_is_known() -> None:
    source = (
        "{% if enable_thinking is defined %}{{ messages }}{{ bos_token }}{% set x = mood %}{% endif %}{{ x }}"
        "{% if not date is defined %}{% set date = 'today' %}{% endif %}"
        "{% set y = y | default(1) %}{% set z = 1 %}{{ z }}"
        "{% for m in messages %}{% if m %}{% set last = m %}{% endif %}{{ last }}{% endfor %}"
    )
    template = ChatTemplate(source, {"bos_token": ""})
    assert template.variables == {"enable_thinking", "mood", "date", "y"}
    assert template.reads >= {"messages", "bos_token"}
