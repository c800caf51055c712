"""GGUF files that are damaged or lie: one clear sentence, no crash, no hang, no memory beyond their size."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sishu.console import UserError
from sishu.models.gguf.header import GGUF
from sishu.models.gguf.reading import load_gguf, read_gguf_decoder
from sishu.models.gguf.writing import write_gguf
from tests.models.test_gguf import LLAMA, SHAPES, byte_vocabulary, random_decoder

ROUNDS = 1000
MOST_MEMORY = 48 * 2**20
"""Bytes of addresses beyond those of a process that has read sound files of the same 200 to 300 kB before."""
LONGEST = 5
"""Seconds for one file."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "tiny.gguf"
    write_gguf(random_decoder(LLAMA), byte_vocabulary(), path, "F16")
    return path.read_bytes()


def after(data: bytes, name: str) -> int:
    """Where what follows a name begins."""
    encoded = struct.pack("<Q", len(name)) + name.encode()
    return data.index(encoded) + len(encoded)


def put(data: bytes, at: int, form: str, value: float) -> bytes:
    new = struct.pack(f"<{form}", value)
    return data[:at] + new + data[at + len(new) :]


Change = Callable[[bytes], bytes]
FIRST = "blk.0.attn_q.weight"
CHANGES: dict[str, tuple[Change, str]] = {
    "another file": (lambda d: b"PK\3\4" + d[4:], "no GGUF file"),
    "empty": (lambda d: b"", "no GGUF file"),
    "four bytes": (lambda d: d[:4], "version"),
    "version": (lambda d: put(d, 4, "I", 9), "version is 9"),
    "big-endian": (lambda d: put(d, 4, "I", 3 << 24), "big-endian"),
    "tensors": (lambda d: put(d, 8, "Q", 2**60), "tensors do not fit"),
    "fields": (lambda d: put(d, 16, "Q", 2**60), "fields of metadata do not fit"),
    "a long key": (lambda d: put(d, 24, "Q", 2**63), "takes 9,223,372"),
    "a key that is no text": (lambda d: put(d, 32, "B", 0xFF), "is no text"),
    "a long text": (lambda d: put(d, after(d, "general.name") + 4, "Q", 2**62), "general.name takes"),
    "a long array": (
        lambda d: put(d, after(d, "tokenizer.ggml.token_type") + 8, "Q", 2**61),
        "numbers of tokenizer.ggml.token_type do not fit",
    ),
    "a long list": (
        lambda d: put(d, after(d, "tokenizer.ggml.tokens") + 8, "Q", 2**61),
        "texts of tokenizer.ggml.tokens do not fit",
    ),
    "an array of arrays": (
        lambda d: put(d, after(d, "tokenizer.ggml.tokens") + 4, "I", 9),
        "unknown type, 9",
    ),
    "a type of field": (lambda d: put(d, after(d, "llama.block_count"), "I", 77), "unknown type, 77"),
    "a field twice": (lambda d: d.replace(b"general.type", b"general.name"), "'general.name' is there twice"),
    "dimensions": (lambda d: put(d, after(d, FIRST), "I", 2**31), "dimensions"),
    "no rows": (lambda d: put(d, after(d, FIRST) + 4, "Q", 0), "has the shape"),
    "many rows": (lambda d: put(d, after(d, FIRST) + 12, "Q", 2**63), "ends at"),
    "an unknown type": (lambda d: put(d, after(d, FIRST) + 20, "I", 36), "type 36"),
    "another type": (lambda d: put(d, after(d, FIRST) + 20, "I", 12), "no whole blocks"),
    "an odd offset": (lambda d: put(d, after(d, FIRST) + 24, "Q", 33), "no multiple of 32"),
    "an offset within another": (lambda d: put(d, after(d, FIRST) + 24, "Q", 32), "begins within"),
    "an offset beyond": (lambda d: put(d, after(d, FIRST) + 24, "Q", 2**40), "ends at"),
    "a tensor twice": (lambda d: d.replace(b"blk.1.attn_q", b"blk.0.attn_q"), "is there twice"),
    "an unknown tensor": (lambda d: d.replace(b"blk.1.attn_q", b"blk.7.attn_q"), "lacks the tensor"),
    "cut": (lambda d: d[:-100], "ends at"),
    "an architecture": (
        lambda d: d.replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0mamba", 1),
        "'mamba'",
    ),
    "layers": (lambda d: put(d, after(d, "llama.block_count") + 4, "I", 2**31), "block_count must be"),
    "few layers": (lambda d: put(d, after(d, "llama.block_count") + 4, "I", 1), "unknown tensor, 'blk.1"),
    "no heads": (lambda d: put(d, after(d, "llama.attention.head_count") + 4, "I", 0), "head_count must be"),
    "odd heads": (
        lambda d: put(d, after(d, "llama.attention.head_count") + 4, "I", 5),
        "multiple of kv_heads",
    ),
    "wide heads": (
        lambda d: put(d, after(d, "llama.attention.key_length") + 4, "I", 2**30),
        "value_length must be",
    ),
    "an eps that is no number": (
        lambda d: put(d, after(d, "llama.attention.layer_norm_rms_epsilon") + 4, "f", float("nan")),
        "positive number",
    ),
    "another width": (
        lambda d: put(d, after(d, "llama.embedding_length") + 4, "I", 65),
        "metadata asks for",
    ),
    "no such field": (
        lambda d: d.replace(b"llama.block_count", b"llama.block_caunt"),
        "lacks llama.block_count",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_wrong_is_told_in_one_sentence(tmp_path: Path, sound: bytes, change: str) -> None:
    mutate, told = CHANGES[change]
    path = tmp_path / "model.gguf"
    path.write_bytes(mutate(sound))
    with pytest.raises(UserError) as error:
        read_gguf_decoder(GGUF(path))
    assert re.search(re.escape(told), str(error.value)), str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_sizes_that_nobody_can_count_are_told(tmp_path: Path, sound: bytes) -> None:
    data = sound
    for name in ("embedding_length", "feed_forward_length"):
        data = put(data, after(data, f"llama.{name}") + 4, "I", 2**31)
    (tmp_path / "model.gguf").write_bytes(data)
    with pytest.raises(UserError, match=r"cannot be|asks for"):
        read_gguf_decoder(GGUF(tmp_path / "model.gguf"))


def with_fields(folder: Path, decoder: Any, **changed: Any) -> Path:
    path = folder / "model.gguf"
    write_gguf(decoder, byte_vocabulary() | changed, path, "F32")
    return path


def test_parts_folders_and_alignments_are_told(tmp_path: Path) -> None:
    decoder = random_decoder(LLAMA)
    with pytest.raises(UserError, match=r"one of 3 parts.*llama-gguf-split"):
        read_gguf_decoder(GGUF(with_fields(tmp_path, decoder, **{"split.count": 3})))
    for alignment in (0, 7, 48, "32", 2.5, True):
        with pytest.raises(UserError, match=r"general\.alignment"):
            GGUF(with_fields(tmp_path, decoder, **{"general.alignment": alignment}))
    with pytest.raises(UserError, match="cannot be read"):
        GGUF(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        GGUF(tmp_path / "nothing.gguf")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, "none, linear or yarn"),
        ({"llama.rope.scaling.type": "yarn"}, "lacks llama.rope.scaling.factor"),
        (
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 0.5},
            "rope scaling needs a factor",
        ),
        ({"llama.rope.scaling.type": 3}, "must be a text"),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 2.0,
                "llama.rope.freq_base": 1.0,
            },
            "more than 1 for rope scaling",
        ),
    ],
)
def test_positions_that_are_not_known_are_told(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_gguf_decoder(GGUF(with_fields(tmp_path, random_decoder(LLAMA), **changed)))


def test_divisors_that_are_not_llamas_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SHAPES["llama"]
    for divisors in (torch.linspace(1, 8, 8), torch.full((8,), float("nan")), torch.full((3,), 2.0)):
        monkeypatch.setattr(
            "sishu.models.gguf.architectures.write_rope",
            lambda c, turned, own=divisors: ({"rope.freq_base": 10_000.0}, own),
        )
        write_gguf(random_decoder(config), byte_vocabulary(), tmp_path / "model.gguf", "F32")
        with pytest.raises(UserError, match=r"rope_freqs\.weight.*safetensors"):
            read_gguf_decoder(GGUF(tmp_path / "model.gguf"))


def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    """In a process of its own, whose memory is limited and which stops at anything like running code."""
    for name, kind in (("llama", "F16"), ("mixtral", "Q4_0"), ("gpt2", "Q8_0")):
        write_gguf(random_decoder(SHAPES[name]), byte_vocabulary(), tmp_path / f"{name}.gguf", kind)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.test_gguf_hostile", str(tmp_path)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    refused, loaded = map(int, done.stdout.split())
    assert refused + loaded == ROUNDS
    assert refused > ROUNDS // 3
    assert loaded > ROUNDS // 20  # bits of weights and of tokens may be anything


# What follows runs in that process.


def mutated(data: bytes, places: list[int], chance: random.Random) -> bytes:
    """A damaged copy; `places` are where numbers of the header stand, which lie more often than others."""
    copy = bytearray(data)
    header = max(places) + 64

    def somewhere() -> int:
        return chance.choice(
            (
                chance.choice(places) + chance.randrange(32),
                chance.randrange(header),
                chance.randrange(len(data)),
            )
        )

    kind = chance.choice(("flip", "flip", "cut", "length", "type", "move"))
    if kind == "flip":
        for _ in range(chance.choice((1, 1, 2, 8, 64))):
            copy[min(somewhere(), len(copy) - 1)] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del copy[somewhere() :]
    elif kind == "length":
        value = chance.choice((0, 1, 2**16, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1, len(data)))
        at = min(somewhere(), len(copy) - 8)
        copy[at : at + 8] = struct.pack("<Q", value)
    elif kind == "type":
        at = chance.choice(places)
        copy[at : at + 4] = struct.pack("<I", chance.randrange(45))
    else:
        at, other = somewhere(), somewhere()
        copy[at:at] = copy[other : other + chance.randrange(64)]
    return bytes(copy)


CODE = ("exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class", "socket.connect")


def no_code(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook that lets nothing run that was not there before."""
    wrong = event in (
        "exec",
        "compile",
        "os.system",
        "subprocess.Popen",
        "pickle.find_class",
        "socket.connect",
    )
    if wrong or (event == "open" and "w" in str(arguments[1]) and not str(arguments[0]).endswith(".mutated")):
        os.write(2, f"{event} {arguments}\n".encode())
        os._exit(3)


def address_space() -> int:
    """Bytes of addresses that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    files = []
    for path in sorted(folder.glob("*.gguf")):
        sound, file = path.read_bytes(), GGUF(path)
        files.append((sound, [after(sound, name) for name in (*file.fields, *file.tensors)] + [4, 8, 16]))
        for _ in range(2):  # what is imported or prepared on first use is so now
            load_gguf(path)
    damaged = folder / "model.mutated"
    chance = random.Random(0)
    refused = loaded = 0
    most = address_space() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.addaudithook(no_code)
    for number in range(ROUNDS):
        damaged.write_bytes(mutated(*files[number % len(files)], chance))
        signal.alarm(LONGEST)
        try:
            load_gguf(damaged)
            loaded += 1
        except UserError:
            refused += 1
        signal.alarm(0)
    print(refused, loaded)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
