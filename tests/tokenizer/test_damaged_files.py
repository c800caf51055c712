"""Whatever is in a tokenizer's files: a tokenizer that works, or one clear sentence."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sishu.console import UserError
from sishu.tokenizer.tokenizer import Tokenizer
from tests.tokenizer import examples

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 31, 1 << 40, 1e308, "", "x", "\ud800", "a" * 5000, [], {}, [[]],
    {"type": "Sequence"},
    "(a+)+$", "a{1000}{1000}{1000}", "\\", "[", {"String": ""}, {"Regex": "(x*)*y"}, [["a", "b"]],
    "{{ x",
    "{% for i in range(9**9) %}{% endfor %}", {"type": "FixedLength", "length": 0}, float("nan"),
    {"__class__": "os.system"}, "cos\nsystem\n(S'true'\ntR.",
)  # fmt: skip
QUESTION = [{"role": "user", "content": "hi <|im_end|> there"}]
MOST_SECONDS = 20.0
MOST_MEMORY = 1 << 30


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, but only the first few of long lists and objects."""
    yield path
    if isinstance(value, dict):
        for key in list(value)[:24]:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(3, len(value))):
            yield from places(value[index], (*path, index))


def with_odd(data: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    copy = json.loads(json.dumps(data))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    if odd is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = odd
    return copy


def use(folder: Path) -> None:
    """Load and use a tokenizer; UserError is an answer too."""
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        tokenizer = Tokenizer.load(folder)
        ids = tokenizer.encode("The school 学 🙂\n  of 12 x")
        assert all(0 <= i < tokenizer.vocabulary_size for i in ids)
        assert isinstance(tokenizer.decode(ids), str)
        stream = tokenizer.stream_decoder()
        assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)
        tokenizer.begin(ids), tokenizer.stop_ids, tokenizer.fingerprint()
        tokenizer.encode_batch(["a", "b c"])
        tokenizer.encode_conversation(QUESTION, generation_prompt=True)
    except UserError as error:
        assert str(error).strip()
    assert time.monotonic() - started < MOST_SECONDS
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MOST_MEMORY


@pytest.mark.parametrize("name", ["byte level", "pieces"])
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_odd_values_in_json(tmp_path: Path, name: str, file: str) -> None:
    folder = examples.ALL[name](tmp_path)
    rng = random.Random(f"{name}{file}")
    data = json.loads((folder / file).read_text(encoding="utf-8"))
    cases = [(path, odd) for path in places(data) for odd in (*ODD, ...) if path or odd is not ...]
    for path, odd in rng.sample(cases, 150):
        (folder / file).write_text(json.dumps(with_odd(data, path, odd)), encoding="utf-8")
        use(folder)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("byte level", "tokenizer.json"),
        ("byte level", "tokenizer_config.json"),
        ("tiktoken", "qwen.tiktoken"),
        ("two files", "merges.txt"),
        ("two files", "vocab.json"),
        ("sentencepiece", "tokenizer.model"),
        ("unigram", "tokenizer.model"),
        ("words", "vocab.txt"),
    ],
)
def test_flipped_bytes(tmp_path: Path, name: str, file: str) -> None:
    folder = examples.ALL[name](tmp_path)
    whole = (folder / file).read_bytes()
    rng = random.Random(f"{name}{file}")
    for _ in range(30):
        data = bytearray(whole)
        way = rng.randrange(4)
        for _ in range(rng.choice((1, 3, 50))):
            at = rng.randrange(len(data))
            if way == 0:
                data[at] = rng.randrange(256)
            elif way == 1:
                del data[at : at + rng.randrange(1, 9)]
            elif way == 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
        if way == 3:
            data = data[: rng.randrange(len(data))]
        (folder / file).write_bytes(data)
        use(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"padding": {"strategy": {"Fixed": 1 << 40}, "direction": "Right", "pad_to_multiple_of": None,
                     "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}},
        {"truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}},
        {"normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a|a)+$"}, "behavior": "Isolated",
                           "invert": False}},
    ],
)  # fmt: skip
def test_files_that_ask_for_the_world(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = examples.byte_level_folder(tmp_path)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) | change
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    use(folder)
    try:
        ids = Tokenizer.load(folder).encode("a" * 200 + "!")
    except UserError:
        return
    assert 1 < len(ids) < 1000


def test_an_id_of_four_billion_is_refused(tmp_path: Path) -> None:
    folder = examples.byte_level_folder(tmp_path)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["vocab"]["zzz"] = 4_000_000_000
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match="4000000000"):
        Tokenizer.load(folder)


def test_nested_without_end(tmp_path: Path) -> None:
    folder = examples.byte_level_folder(tmp_path)
    for depth in (50, 100_000):
        text = '{"normalizer":' + '{"type":"Sequence","normalizers":[' * depth + "]}" * depth + "}"
        (folder / "tokenizer.json").write_text(text)
        with pytest.raises(UserError):
            Tokenizer.load(folder)
        (folder / "tokenizer.json").unlink()
        examples.byte_level_folder(tmp_path)
        (folder / "tokenizer_config.json").write_text("[" * depth + "]" * depth)
        with pytest.raises(UserError):
            Tokenizer.load(folder)
        examples.byte_level_folder(tmp_path)
