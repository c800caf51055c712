"""What the steps work with besides settings: lists and indexes, compiled once and read by every process."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from sishu.console import UserError
from sishu.corpus.judge.bad_words import BadWords
from sishu.corpus.judge.decontaminate import Contamination, read_items
from sishu.corpus.judge.fasttext_file import FastTextScorer
from sishu.corpus.judge.quality_model import QualityModel, Scorer
from sishu.corpus.judge.url_filter import UrlFilter
from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.pipeline.funnel import Funnel


class Material(NamedTuple):
    """Of one corpus."""

    urls: UrlFilter
    bad_words: BadWords | None
    evaluations: Contamination | None
    quality: Scorer | None
    tokenizer: Tokenizer | None


def material(settings: CleanSettings, folder: Path) -> Material:
    """Compiles what the settings name into a folder, or reads what is compiled there; once in a process.

    The first call must have ended before other processes make theirs.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    return _material(settings.model_dump_json(), folder)


def new_funnel(settings: CleanSettings, folder: Path) -> Funnel:
    """A funnel that shows, and counts the tokens of, what the settings ask for."""
    if not settings.count_tokens:
        return Funnel(settings.keep_rejects)
    tokenizer = material(settings, folder).tokenizer
    assert tokenizer
    return Funnel(
        settings.keep_rejects, lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    )


@lru_cache(maxsize=4)
def _material(given: str, folder: Path) -> Material:
    settings = CleanSettings.model_validate_json(given)
    folder.mkdir(parents=True, exist_ok=True)
    block = settings.block
    urls = UrlFilter(
        domains=list(map(Path, block.domains)),
        urls=list(map(Path, block.urls)),
        words=list(map(Path, block.words)),
        allow=block.allow,
        cache=folder,
        default_words=block.default_words,
    )
    bad_words = BadWords([Path(path) for path in settings.bad_word_lists]) if settings.bad_words else None
    evaluations = None
    if settings.evaluations:
        if not (folder / "evaluations").is_dir():
            items = chain.from_iterable(read_items(Path(path)) for path in settings.evaluations)
            Contamination.build(items).save(folder / "evaluations")
        evaluations = Contamination.load(folder / "evaluations")
    quality: Scorer | None = None
    if settings.quality_model:
        path = Path(settings.quality_model)
        quality = QualityModel.load(path) if path.is_dir() else FastTextScorer(path, settings.quality_label)
    tokenizer = _tokenizer(Path(settings.count_tokens)) if settings.count_tokens else None
    return Material(urls, bad_words, evaluations, quality, tokenizer)


def _tokenizer(path: Path) -> Tokenizer:
    """Of a tokenizer.json, or the folder of one."""
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more particular
        raise UserError(f"{path} cannot be read as a tokenizer.json ({error})") from error
