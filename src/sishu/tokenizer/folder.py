"""A tokenizer's folder, whichever files it has: a tokenizer.json and settings out of any of them."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as FastTokenizer

from sishu.console import UserError
from sishu.tokenizer import pieces, vocabularies
from sishu.tokenizer.guard import guarded, open_tokenizer, read_text
from sishu.tokenizer.patterns import QWEN2
from sishu.tokenizer.settings import Settings, added_tokens, read_settings

OLDER_FILES = "tokenizer.model, *.tiktoken, vocab.txt, or vocab.json with merges.txt"


def read_folder(folder: Path) -> tuple[FastTokenizer, Settings]:
    """Read what is there, tokenizer.json first; raises UserError when nothing is, or it is broken."""
    settings = read_settings(folder)
    text, where = _vocabulary(folder, settings)
    fast = open_tokenizer(text, str(where))
    with guarded(f"The settings in {folder} do not fit its vocabulary"):
        apply(fast, settings, str(folder))
    return fast, settings


def _vocabulary(folder: Path, settings: Settings) -> tuple[str, Path]:
    path = folder / "tokenizer.json"
    if path.is_file():
        return read_text(path), path
    path = folder / "tokenizer.model"
    if not path.is_file():
        path = folder / "spiece.model"
    if path.is_file():
        found, roles = pieces.read_pieces(path)
        settings.tokens = roles | settings.tokens
        if settings.add_bos is None and settings.add_eos is None:
            settings.add_bos, settings.add_eos = not found.unigram, found.unigram and "eos" in roles
        return pieces.tokenizer_json(found), path
    for path in sorted(folder.glob("*.tiktoken")):
        ranks = vocabularies.read_ranks(path)
        special = vocabularies.qwen_specials(ranks)
        settings.tokens = {"eos": "<|endoftext|>", "pad": "<|endoftext|>"} | settings.tokens
        return vocabularies.ranks_json(ranks, QWEN2, special, str(path)), path
    path, merges = folder / "vocab.json", folder / "merges.txt"
    if path.is_file() and merges.is_file():
        settings.tokens = {"bos": "<|endoftext|>", "eos": "<|endoftext|>"} | settings.tokens
        return vocabularies.two_files_json(path, merges, settings.config), path
    path = folder / "vocab.txt"
    if path.is_file():
        roles = {role: f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
        settings.tokens = roles | settings.tokens
        return vocabularies.vocabulary_text_json(path, settings.config), path
    raise UserError(
        f"There is no tokenizer.json in {folder}, nor {OLDER_FILES}: train one with `sishu tokenizer`, or "
        "copy the model's folder whole."
    )


def apply(fast: FastTokenizer, settings: Settings, where: str) -> None:
    """Make the tokens special that the settings name, and put at the ends of a text what they say."""
    vocabulary = fast.get_vocab(with_added_tokens=True)
    known = {token.content: token for token in fast.get_added_tokens_decoder().values()}
    for index, about in added_tokens(settings.config):
        content = about["content"]
        if content in known:
            continue
        flags = {name: about.get(name) is True for name in ("lstrip", "rstrip", "single_word", "normalized")}
        token = AddedToken(content, special=about.get("special") is True, **flags)
        (fast.add_special_tokens if token.special else fast.add_tokens)([token])
        if fast.token_to_id(content) != index:
            raise UserError(
                f"The tokenizer_config.json in {where} gives {content!r} the id {index}, which is not its "
                "place in the vocabulary: the files are not of one model; copy them again."
            )
        known[content] = token
        vocabulary[content] = index
    for role, content in list(settings.tokens.items()):
        if content not in vocabulary:
            if role in ("bos", "eos") and settings.config.get(f"{role}_token") is not None:
                raise UserError(
                    f"The tokenizer in {where} lacks the token {content!r} that its tokenizer_config.json "
                    f"names as {role}_token: use the tokenizer.json that came with the model."
                )
            del settings.tokens[role]  # a name without a token, as many a published folder has
        elif content not in known or not known[content].special:
            fast.add_special_tokens([AddedToken(content, special=True, normalized=False)])
    if settings.add_bos is not None or settings.add_eos is not None:
        _frame(fast, settings)


def _frame(fast: FastTokenizer, settings: Settings) -> None:
    """What `transformers` does where tokenizer_config.json says add_bos_token or add_eos_token."""
    begin = settings.tokens.get("bos") if settings.add_bos else None
    end = settings.tokens.get("eos") if settings.add_eos else None
    fast.post_processor = processors.TemplateProcessing(
        single=[*([begin] if begin else []), "$A:0", *([end] if end else [])],
        pair=None,
        special_tokens=[(t, fast.token_to_id(t)) for t in dict.fromkeys((begin, end)) if t],
    )


def config_to_save(settings: Settings, context_length: int | None) -> str:
    """The tokenizer_config.json of a tokenizer that came from elsewhere, as JSON. What would make
    `transformers` run the code of others is left out."""
    config = {
        name: value
        for name, value in settings.config.items()
        if name not in ("auto_map", "chat_template", "name_or_path", "added_tokens_decoder", "tokenizer_file")
    }
    # other classes build their tokenizer anew from its vocabulary; this one takes tokenizer.json as it is
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config |= {f"{role}_token": token for role, token in settings.tokens.items()}
    config.setdefault("clean_up_tokenization_spaces", False)
    for name, wanted in (("add_bos_token", settings.add_bos), ("add_eos_token", settings.add_eos)):
        if wanted is not None:
            config[name] = wanted
    if set(settings.templates) == {"default"}:
        config["chat_template"] = settings.templates["default"]
    elif settings.templates:
        config["chat_template"] = [{"name": n, "template": t} for n, t in settings.templates.items()]
    if context_length is not None:
        config["model_max_length"] = context_length
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
