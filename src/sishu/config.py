"""Typed configuration: YAML recipes and dotted overrides, checked, with the nearest right key named."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sishu.console import UserError


class Section(BaseModel):
    """A part of a recipe. Unknown keys are refused; values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, data: Any) -> Any:
        """A section given in part keeps the other defaults of its place: `sft.train.steps=9` changes the
        steps of sft's own training settings, and does not put those of `TrainSettings` in their stead."""
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Section) and isinstance(filled.get(name), Mapping):
                filled[name] = merge(field.default.model_dump(exclude_unset=True), filled[name])
        return filled


S = TypeVar("S", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key given twice is a mistake."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.YAMLError(f"the key {key!r} is given twice, line {key_node.start_mark.line + 1}")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str, origin: str) -> Any:
    """Plain data from YAML; raises UserError naming `origin` and the line."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except RecursionError as error:
        raise UserError(f"{origin} is not readable as YAML: it is nested too deeply.") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:  # the last two: no such day, a list as a key
        problem = " ".join(str(error).split())
        raise UserError(f"{origin} is not readable as YAML: {problem}.") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file holding a mapping; raises UserError when it is missing or something else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold keys and values, not {type(data).__name__}.")
    return data


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`a.b=1` words as nested data; raises UserError for a word without `=` or a path given twice."""
    result: dict[str, Any] = {}
    for word in words:
        path, equals, value = word.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise UserError(f"{word!r} is not an override: write key=value, such as train.steps=100.")
        place = result
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise UserError(f"{word!r} contradicts another override of {key!r}.")
        if keys[-1] in place:
            raise UserError(f"{word!r} contradicts another override of {path!r}: give it once.")
        place[keys[-1]] = parse_yaml(value, repr(word)) if value else ""
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` laid over it, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result


def build(kind: type[S], data: Mapping[str, Any], origin: str = "the configuration") -> S:
    """A checked section; raises UserError with one sentence per mistake, at most three."""
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        sentences = [_sentence(kind, dict(e)) for e in error.errors()]
        raise UserError(f"In {origin}: " + "; ".join(sentences[:3]) + ".") from error


def _sentence(kind: type[BaseModel], error: dict[str, Any]) -> str:
    place = [str(part) for part in error["loc"]]
    dotted = ".".join(place)
    if error["type"] == "extra_forbidden":
        known = list(_section_at(kind, place[:-1]).model_fields)
        near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"unknown key {dotted!r} ({hint})"
    if error["type"] == "missing":
        return f"the key {dotted!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(error["input"], Mapping) else f" (it is {error['input']!r})"
    return f"{dotted or 'it'}: {message[0].lower()}{message[1:].rstrip('.')}{shown}"


def _section_at(kind: type[BaseModel], place: Sequence[str]) -> type[BaseModel]:
    for part in place:
        field = kind.model_fields.get(part)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            break
        kind = inner
    return kind


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next((m for a in get_args(annotation) if (m := _model_in(a))), None)
    return None


def to_yaml(section: BaseModel) -> str:
    """The resolved configuration as YAML, every default written out."""
    data = section.model_dump(mode="json")
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    if yaml.safe_load(text) != data:  # PyYAML loses U+0085, U+2028 and U+2029 unless they are escaped
        text = yaml.safe_dump(data, sort_keys=False)
    return str(text)
