"""Chat templates of other people, rendered in one place, without trust.

A chat template is a program in Jinja's language that came with a model. It gets the names that `transformers`
gives it and runs in Jinja's immutable sandbox (no attribute that begins with an underscore, no file, no
import), with a short list of methods, and on a budget: every value it makes is weighed before it is used, so
that neither ten nested loops nor `x + x` forty times over outlives the budget.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from sishu.console import UserError
from sishu.tokenizer.template_budget import LARGEST_VALUE, MOST_WORK, Budget, weight
from sishu.tokenizer.template_budget import current as budget_of_run

WIDEST = 1000
"""The largest number a method or filter may be given: nobody pads a text to more."""

METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset((
        "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "lower",
        "upper", "title", "capitalize", "swapcase", "replace", "join", "find", "rfind", "index", "rindex",
        "count", "removeprefix", "removesuffix", "partition", "rpartition", "isdigit", "isalpha", "isalnum",
        "isspace", "isupper", "islower", "isnumeric", "isdecimal", "zfill", "ljust", "rjust", "center",
        "format", "casefold",
    )),
    dict: frozenset(("get", "items", "keys", "values", "copy")),
    list: frozenset(("index", "count", "copy")),
    tuple: frozenset(("index", "count")),
}  # fmt: skip
"""What a template may call on plain values."""

_FILTERS = frozenset((
    "abs", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape", "first",
    "float", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max",
    "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "slice",
    "sort", "string", "sum", "title", "trim", "truncate", "unique", "upper", "wordcount", "attr", "tojson",
))  # fmt: skip


class _Counted(NodeTransformer):
    """Sends every stretch of text, every loop, every joining and every list through the budget."""

    @staticmethod
    def _through(name: str, *arguments: nodes.Expr, at: nodes.Node) -> nodes.Expr:
        call = nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)
        call.set_lineno(at.lineno)
        return call

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return self._through("weighed", nodes.Const(node.data), at=node)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        assert isinstance(node.iter, nodes.Expr)
        node.iter = self._through("counted", node.iter, at=node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._through("joined", *node.nodes, at=node)

    def _container(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load":
            return node
        return self._through("weighed", node, at=node)

    visit_List = visit_Dict = visit_Tuple = _container


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what the assistant says (the training mask)."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        environment = "generation_mark"
        start, end = (
            nodes.Output(
                [nodes.Call(nodes.EnvironmentAttribute(environment), [nodes.Const(said)], [], None, None)]
            )
            for said in (0, 1)
        )
        return nodes.Scope([start, *body, end]).set_lineno(line, override=True)


MARKS: ContextVar[tuple[str, str] | None] = ContextVar("marks", default=None)
"""What a rendering writes where the assistant begins and ends to speak, if it is asked to."""


class _Names(Namespace):
    """A namespace whose names are names: none begins with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.TemplateError(f"it stores a value as {name}")
        super().__setitem__(name, budget_of_run.get().weigh(value))


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing is worked out before there is a budget
            finalize=_shown,
            extensions=[LoopControlExtension, _Generation],
        )
        self.globals = {
            "range": _range,
            "dict": _dict,
            "namespace": _Names,
            "raise_exception": _raise,
            "strftime_now": _now,
        }
        self.filters = {name: _checked_filter(self.filters[name]) for name in _FILTERS if name != "tojson"}
        self.filters["tojson"] = _checked_filter(_tojson)
        self.filters["join"] = _join_filter
        self.weighed, self.counted, self.joined = _weighed, _counted, _joined
        self.generation_mark = _generation_mark

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed = super()._parse(source, name, filename)
        counted: nodes.Template = _Counted().visit(parsed)
        return counted

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr.startswith("_"):
            return False
        for kind, methods in METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        if isinstance(obj, (int, float, bytes)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = budget_of_run.get()
        budget.spend()
        if operator == "*":
            if isinstance(left, int) and isinstance(right, (str, list, tuple)):
                left, right = right, left
            if isinstance(left, (str, list, tuple)) and isinstance(right, int):
                budget.weigh(left)
                if max(right, 0) * (len(left) + 1) > budget.largest:
                    raise jinja2.TemplateError("it makes a value too large")
        if operator == "**" and (abs(left) > 2**32 or abs(right) > 64):
            raise jinja2.TemplateError("it makes a number too large")
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateError("it uses % on text")
        return budget.weigh(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # named so because keyword arguments of a template may be called `self` or `context`
        budget = budget_of_run.get()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, (str, list, tuple, dict)):
            budget.spend(1 + (len(owner) >> 4))
            _check_arguments(args, kwargs)
            if isinstance(owner, str):
                args = _bounded(__obj.__name__, owner, args, kwargs)
        else:
            budget.spend()
            budget.weigh(list(args) + list(kwargs.values()))
        value = super().call(__context, __obj, *args, **kwargs)
        return value if __obj is _range else budget.weigh(_plain(value))


def _bounded(method: str, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Raises TemplateError where a method of a text would make one beyond the budget."""
    budget = budget_of_run.get()
    size = 0
    if method == "join" and args:
        items = args[0] if isinstance(args[0], (list, tuple, str, dict)) else list(args[0])
        size = sum(len(i) if isinstance(i, str) else 1 for i in items) + len(owner) * len(items)
        args = (items, *args[1:])
    elif method == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        size = len(owner) + owner.count(args[0]) * len(args[1])
    elif method == "format":
        if re.search(r"\d{4}", owner) or re.search(r"[{][^}]*[{]", owner):
            raise jinja2.TemplateError("it formats beyond measure")
        budget.weigh([*args, *kwargs.values()])
        given = max((len(str(value)) for value in (*args, *kwargs.values())), default=0)
        size = len(owner) + owner.count("{") * (given + WIDEST)
    elif method in ("split", "rsplit", "splitlines"):
        size = 2 * len(owner)
    if size > budget.largest:
        raise jinja2.TemplateError("it makes a value too large")
    return args


def _check_arguments(args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, (int, float)) and abs(value) > WIDEST and value != float("inf"):
            raise jinja2.TemplateError("it asks for a text too wide")


def _plain(value: Any) -> Any:
    """Views and iterators as lists, so that they can be weighed and walked more than once."""
    if isinstance(value, (type({}.keys()), type({}.values()), type({}.items()))):
        return list(value)
    return value


def _checked_filter(wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose arguments and result are weighed."""
    takes = getattr(wrapped, "jinja_pass_arg", None)
    first = 1 if takes is not None else 0

    def run(*args: Any, **kwargs: Any) -> Any:
        budget = budget_of_run.get()
        values = args[first:]
        budget.weigh([value for value in values if not isinstance(value, Undefined)])
        if wrapped is not _INT:
            _check_arguments(values[1:], kwargs)
        # an indent or a replacement may be as long as a text, and be put in as often as the text has places
        if values and isinstance(values[0], str) and wrapped is not _TOJSON:
            longest = max((len(v) for v in values[1:] if isinstance(v, str)), default=0)
            if (len(values[0]) + 1) * longest > 64 * budget.largest or (
                wrapped is _REPLACE
                and len(values) > 2
                and values[0].count(str(values[1])) * len(str(values[2])) > budget.largest
            ):
                raise jinja2.TemplateError("it makes a value too large")
        value = wrapped(*args, **kwargs)
        if not isinstance(value, (str, int, float, list, tuple, dict, type(None), Undefined)):
            value = list(_counted(value))
        return value if isinstance(value, Undefined) else budget.weigh(value)

    if takes is not None:
        run.jinja_pass_arg = takes  # type: ignore[attr-defined]  # how jinja marks what a filter is given
    return run


_REPLACE = jinja2.filters.FILTERS["replace"]
_INT = jinja2.filters.FILTERS["int"]


def _join_filter(value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = [
            item.get(attribute, "") if isinstance(item, Mapping) else ""
            for item in value
        ]  # fmt: skip
    items = [str(budget_of_run.get().weigh(item)) for item in _counted(value)]
    size = sum(map(len, items)) + len(str(d)) * len(items)
    if size > budget_of_run.get().largest:
        raise jinja2.TemplateError("it makes a value too large")
    return _weighed(str(d).join(items))  # type: ignore[no-any-return]  # a text comes back as it went in


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int) and indent > 16:
        raise jinja2.TemplateError("it indents beyond measure")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


_TOJSON = _tojson


@jinja2.pass_eval_context
def _shown(context: Any, value: Any) -> Any:
    """What is written out is weighed first: a list may hold one list many times over."""
    return value if isinstance(value, Undefined) else budget_of_run.get().weigh(value)


def _weighed(value: Any) -> Any:
    return budget_of_run.get().weigh(value)


def _counted(values: Any) -> Any:
    """The values of a loop, counted before it begins."""
    if isinstance(values, Undefined):
        return values
    if not isinstance(values, (str, list, tuple, dict, range)):
        kept = []
        for value in values:
            budget_of_run.get().spend()
            kept.append(value)
        return kept
    budget_of_run.get().spend(1 + len(values))
    return values


def _joined(*values: Any) -> str:
    budget = budget_of_run.get()
    texts = [str(value if isinstance(value, Undefined) else budget.weigh(value)) for value in values]
    if sum(map(len, texts)) > budget.largest:
        raise jinja2.TemplateError("it makes a value too large")
    return str(budget.weigh("".join(texts)))


def _generation_mark(which: int) -> str:
    marks = MARKS.get()
    return marks[which] if marks else ""


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > 10_000:
        raise jinja2.TemplateError("it counts too far")
    return numbers


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _now(form: str) -> str:
    if not re.fullmatch(r"(?:%[-#]?[A-Za-z%]|[^%]){0,64}", str(form), re.DOTALL):
        raise jinja2.TemplateError("it asks for a date in an odd form")
    return datetime.now().strftime(str(form))


_ENVIRONMENT = _Environment()


@lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    token = budget_of_run.set(Budget(MOST_WORK, LARGEST_VALUE))
    try:
        return _ENVIRONMENT.from_string(source)
    except Exception as error:
        raise UserError(
            f"The chat template of this tokenizer is not valid ({_brief(error)}): mend chat_template.jinja "
            "or the chat_template of tokenizer_config.json."
        ) from error
    finally:
        budget_of_run.reset(token)


def render_template(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
    marks: tuple[str, str] | None = None,
) -> str:
    """The text of a conversation; `messages` and `variables` must be plain (see `template_budget.plain`).

    `marks` are written where the template says, by `{% generation %}`, that the assistant begins and ends.
    Raises UserError when the template refuses the conversation, is broken, or goes beyond its budget.
    """
    template = _compiled(source)
    given = weight([messages, dict(variables)])
    budget = Budget(MOST_WORK + 32 * given, LARGEST_VALUE + 4 * given)
    tokens = budget_of_run.set(budget), MARKS.set(marks)
    try:
        return template.render(messages=messages, **variables)
    except Exception as error:  # whatever a foreign program runs into
        raise UserError(f"The chat template refuses this conversation: {_brief(error)}.") from error
    finally:
        budget_of_run.reset(tokens[0])
        MARKS.reset(tokens[1])


def _brief(error: Exception) -> str:
    return (str(error).strip().rstrip(".") or type(error).__name__)[:300]


def says_generation(source: str) -> bool:
    """Whether a template marks by itself what the assistant says."""
    return re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", source) is not None
