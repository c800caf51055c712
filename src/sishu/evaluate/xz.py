"""What a general compressor makes of the text: bits per byte with and without the training text.

The conditional figure is the harder baseline and the fair one: like a language model, xz has then
read the training text, and it may copy from any part of it. A model that does not beat it has
learnt less than a good dictionary.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence


def xz_bits_per_byte(train: Sequence[str], held_out: Sequence[str]) -> float:
    """Bits that `held_out` adds to the training text under `xz -9e`, per held-out UTF-8 byte.

    (size(xz(train + held_out)) - size(xz(train))) x 8 / bytes(held_out), with the documents joined
    end to end and a dictionary as large as the whole input, so that the first training document is
    still within reach. Raises ValueError when `held_out` holds no text.
    """
    before, after = _encoded(train), _encoded(held_out)
    _require_text(after)
    dictionary = len(before) + len(after)
    return (_xz_size(before + after, dictionary) - _xz_size(before, dictionary)) * 8 / len(after)


def plain_xz_bits_per_byte(held_out: Sequence[str]) -> float:
    """Bits per UTF-8 byte of `held_out` under `xz -9e` alone: the easier baseline to beat.

    Raises ValueError when `held_out` holds no text.
    """
    data = _encoded(held_out)
    _require_text(data)
    return _xz_size(data, len(data)) * 8 / len(data)


def _encoded(documents: Sequence[str]) -> bytes:
    return "".join(documents).encode("utf-8", "surrogatepass")


def _require_text(data: bytes) -> None:
    if not data:
        raise ValueError("the held-out documents hold no text to compress")


def _xz_size(data: bytes, dictionary: int) -> int:
    """Bytes of an .xz file of `data`; the dictionary holds at least `dictionary` bytes."""
    # xz -9 has 64 MiB. A smaller one that still covers the input gives the same result with less
    # memory; the format's encoder ends at 1.5 GiB.
    covering = min(max(1 << (dictionary - 1).bit_length(), 1 << 16), 3 << 29)
    filters = [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": 9 | lzma.PRESET_EXTREME,
            "dict_size": covering,
        }
    ]
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, filters=filters))
