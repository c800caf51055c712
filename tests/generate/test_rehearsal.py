"""Text that a model writes itself: as much as asked for, its own, the same for a seed."""

from __future__ import annotations

from pathlib import Path

from sishu.generate.rehearsal import rehearse
from sishu.models.folder import load_decoder


def test_as_much_as_was_asked_for_in_texts_that_fit(tiny_model_folder: Path) -> None:
    _, tokenizer = load_decoder(tiny_model_folder)
    texts = rehearse(tiny_model_folder, 900, 24, seed=1)
    # what random weights say is hardly UTF-8, and encoded anew it has somewhat other tokens
    sizes = [len(tokenizer.encode(text.replace("\ufffd", ""))) for text in texts]
    assert len(texts) >= 900 / 23 and 400 < sum(sizes) <= 900 + 24
    assert 20 < max(sizes) <= 30
    assert len({text[:1] for text in texts}) > 5, "each begins with another token"


def test_the_same_for_a_seed_and_others_for_another(tiny_model_folder: Path) -> None:
    first = rehearse(tiny_model_folder, 300, 24, seed=1)
    assert rehearse(tiny_model_folder, 300, 24, seed=1) == first
    assert rehearse(tiny_model_folder, 300, 24, seed=2) != first


def test_a_text_never_exceeds_the_model_s_context(tiny_model_folder: Path) -> None:
    decoder, tokenizer = load_decoder(tiny_model_folder)
    texts = rehearse(tiny_model_folder, 400, 100_000, seed=3)
    assert max(len(tokenizer.encode(text)) for text in texts) <= decoder.config.context_length
