"""The compression baselines on text whose information content is known."""

from __future__ import annotations

import random

import pytest

from sishu.evaluate.xz import plain_xz_bits_per_byte, xz_bits_per_byte


def noise(seed: int, length: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice("0123456789abcdef") for _ in range(length))


def test_noise_of_four_bits_costs_about_four_bits() -> None:
    held = [noise(1, 50_000)]
    assert 4.0 < plain_xz_bits_per_byte(held) < 4.6
    assert 4.0 < xz_bits_per_byte([noise(2, 50_000)], held) < 4.6


def test_what_training_has_said_is_nearly_free_however_long_ago() -> None:
    held = noise(1, 4_000)
    # 9 MB of other text in between lies beyond the 8 MiB dictionary of a plain `xz`.
    train = [held, "abcdefgh" * 1_200_000]
    assert xz_bits_per_byte(train, [held]) < 0.5
    assert plain_xz_bits_per_byte([held]) > 4.0


def test_bytes_are_counted_and_chinese_works() -> None:
    text = ["私塾是旧时私人设立的教学处所，一般只有一个教师。"]
    bits = plain_xz_bits_per_byte(text)
    file_overhead = 100 * 8 / len(text[0].encode())
    assert 8 - 1 < bits < 8 + file_overhead
    assert xz_bits_per_byte(text, text) < bits / 2


def test_documents_are_joined_end_to_end() -> None:
    held = noise(3, 3_000)
    assert plain_xz_bits_per_byte([held[:1000], held[1000:]]) == plain_xz_bits_per_byte([held])
    assert xz_bits_per_byte([], [held]) == pytest.approx(plain_xz_bits_per_byte([held]), abs=0.2)


def test_no_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="no text"):
        xz_bits_per_byte(["a"], [""])
    with pytest.raises(ValueError, match="no text"):
        plain_xz_bits_per_byte([])
