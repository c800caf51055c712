"""A model folder's `config.json`: which family it is of and what shape it describes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from sishu.console import UserError
from sishu.models.decoder import DecoderConfig
from sishu.models.encoder import EncoderConfig
from sishu.models.families.family import Family
from sishu.models.weights import StoredWeights, brief

CONFIG = "config.json"
LARGEST, WIDEST_HEAD = 2**31, 2**14
"""Sizes above these are taken for damage, before memory is asked for."""

Config = TypeVar("Config", DecoderConfig, EncoderConfig)
Model = TypeVar("Model", bound=nn.Module)


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's `config.json`; raises UserError where there is none to read."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"There is no model in {folder}: it has no {CONFIG}.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(path, str(error)) from error
    if not isinstance(fields, dict):
        raise _unusable(path, "it must be a mapping")
    return fields


def read_shape(
    folder: Path,
    families: Mapping[str, Family[Config]],
    architectures: Callable[[Family[Config]], tuple[str, ...]],
) -> tuple[Family[Config], Config]:
    """The family and the shape that a folder's configuration describes; `architectures` are those of a
    family that will do. Raises UserError for a family that is not read, for another architecture, and
    for fields that are missing or make no sense."""
    path, fields = folder / CONFIG, read_config(folder)
    name, listed = fields.get("model_type"), fields.get("architectures") or [None]
    if not isinstance(listed, list) or not isinstance(listed[0], str | None):
        raise _unusable(path, "architectures must be a list of names")
    found = listed[0]
    family = families.get(name) if isinstance(name, str) else None
    if family is None:
        told = ", ".join(families)
        raise UserError(f"{path} describes {brief(found or name)!r}; the families read here are {told}.")
    wanted = architectures(family)
    if found is not None and found not in wanted:
        raise UserError(f"{path} describes {brief(found)!r}; this command needs {' or '.join(wanted)}.")
    try:
        config = family.from_published(fields)
        _check(config)
    except KeyError as error:
        raise _unusable(path, f"it lacks {error!s}") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, IndexError) as error:
        raise _unusable(path, str(error)) from error
    return family, config


def written_shape(family: Family[Config], config: Config, architecture: str) -> dict[str, Any]:
    """The fields of a configuration of this shape, and the architecture among them. Raises UserError where
    files of the family cannot say the shape: what was read from them would be another model."""
    try:
        fields = family.to_published(config)
        again = family.from_published(fields | {"architectures": [architecture]})
        differ = [
            one.name for one in fields_of(config) if getattr(again, one.name) != getattr(config, one.name)
        ]
    except ValueError as error:
        raise UserError(f"A model of this shape cannot be written as {family.name}: {error!s}.") from error
    if differ:
        told = ", ".join(f"{name} = {getattr(config, name)!r}" for name in differ)
        raise UserError(f"A model with {told} cannot be written as {family.name}: choose another family.")
    return fields | {"architectures": [architecture]}


def check_size(folder: Path, networks: int, stored: StoredWeights) -> None:
    """A configuration that asks for more networks (blocks, or experts of all blocks) than there are tensors
    is not that of these weights; said before anything is made of that size."""
    if networks > len(stored.shapes):
        raise UserError(
            f"{folder / CONFIG} asks for {networks:,} layers or experts, but there are only "
            f"{len(stored.shapes):,} tensors in the folder: they are not of one model."
        )


def empty(model: Callable[[Config], Model], config: Config) -> Model:
    """A model of this shape without memory for its weights; raises UserError where no weight can be so
    large."""
    try:
        with torch.device("meta"):
            return model(config)
    except (RuntimeError, ArithmeticError) as error:
        raise UserError(f"{CONFIG} describes a model that cannot be: {error!s}.") from error


def _unusable(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is not a usable model configuration: {brief(reason)}.")


def _check(shape: Any) -> None:
    """Sizes are whole numbers that a model can have, in what a shape consists of as well; raises
    ValueError."""
    for one in fields_of(shape):
        value, kind = getattr(shape, one.name), str(one.type)
        if is_dataclass(value):
            _check(value)
        elif value is None and kind.endswith("| None"):
            continue
        elif kind.startswith("int"):
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{one.name} must be a whole number, not {value!r}")
            if value > (WIDEST_HEAD if one.name == "head_width" else LARGEST):
                raise ValueError(f"{one.name} is {value}, more than any model has")
        elif kind.startswith("float") and not (
            isinstance(value, (int, float)) and 0 < float(value) < math.inf
        ):
            raise ValueError(f"{one.name} must be a positive number, not {value!r}")
