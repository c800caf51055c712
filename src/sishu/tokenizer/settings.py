"""What the files beside a tokenizer.json say: special tokens by role, chat templates, what ends a turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sishu.console import UserError
from sishu.tokenizer.guard import read_object, read_text

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
ENDS_OF_TURN = frozenset((
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|endoftext|>",
    "<|end_of_text|>", "<|return|>", "<|call|>", "<|end_of_turn|>", "<|endofturn|>", "<EOT>", "_<EOT>",
    "[EOT]", "[EOS]", "<|eot|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<end_of_utterance>",
    "<|user_end|>", "<|assistant_end|>",
))  # fmt: skip
"""Special tokens that end an answer in one published model or another (llama.cpp keeps such a list too)."""
LARGEST_TEMPLATE = 1 << 20


@dataclass
class Settings:
    """Beside the vocabulary: tokens by role (`bos`, `eos`, …, as they are written), templates by name, and
    whatever else tokenizer_config.json said."""

    tokens: dict[str, str] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)
    stop_ids: frozenset[int] = frozenset()
    add_bos: bool | None = None
    add_eos: bool | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def template(self) -> str | None:
        """The chat template for a conversation without tools."""
        return self.templates.get("default")

    def template_for(self, tools: bool) -> str | None:
        """The template of conversations with tools, where there is one, else the default."""
        return (self.templates.get("tool_use") if tools else None) or self.template


def read_settings(folder: Path) -> Settings:
    """The settings of a folder, empty where it has none; raises UserError for a damaged file."""
    path = folder / "tokenizer_config.json"
    config = read_object(path)
    named = read_object(folder / "special_tokens_map.json") | config
    tokens = {}
    for role in ROLES:
        token = _written(named.get(f"{role}_token"))
        if token is not None:
            tokens[role] = token
    settings = Settings(tokens, _templates(config.get("chat_template"), path), config=config)
    for name in ("bos", "eos"):
        wanted = config.get(f"add_{name}_token")
        if isinstance(wanted, bool):
            setattr(settings, f"add_{name}", wanted)
    for file, name in [
        (folder / "chat_template.jinja", "default"),
        *((file, file.stem) for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))),
    ]:
        if file.is_file():
            settings.templates[name] = _checked(read_text(file), file)
    generation = read_object(folder / "generation_config.json").get("eos_token_id")
    ends = generation if isinstance(generation, list) else [generation]
    settings.stop_ids = frozenset(
        i for i in ends if isinstance(i, int) and not isinstance(i, bool) and i >= 0
    )
    return settings


def added_tokens(config: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """`added_tokens_decoder` of a tokenizer_config.json in the order of its ids; odd entries are left out."""
    said = config.get("added_tokens_decoder")
    if not isinstance(said, dict):
        return []
    return sorted(
        (
            (int(index), about)
            for index, about in said.items()
            if str(index).isascii()
            and str(index).isdigit()
            and len(str(index)) < 10
            and isinstance(about, dict)
            and isinstance(about.get("content"), str)
            and about["content"]
        ),
        key=lambda entry: entry[0],
    )


def _written(token: object) -> str | None:
    """A token as it is written: files give it as a text or as an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) and content else None


def _templates(said: object, path: Path) -> dict[str, str]:
    if isinstance(said, str):
        return {"default": _checked(said, path)}
    if not isinstance(said, list):
        return {}
    return {
        entry["name"]: _checked(entry["template"], path)
        for entry in said
        if isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    }


def _checked(template: str, path: Path) -> str:
    if len(template) > LARGEST_TEMPLATE:
        raise UserError(f"The chat template of {path} is longer than {LARGEST_TEMPLATE:,} characters.")
    return template
