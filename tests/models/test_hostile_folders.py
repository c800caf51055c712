"""Folders from strangers: whatever their files say, there is a model or a sentence that names the fault; no
crash, no hang, no memory beyond the size of the files, no code run."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import signal
import struct
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sishu.console import UserError
from sishu.models.decoder import Decoder, DecoderConfig, Experts
from sishu.models.encoder import Encoder, EncoderConfig
from sishu.models.encoder_folder import read_encoder, save_encoder
from sishu.models.folder import read_decoder, write_model
from sishu.nn.rotary import RopeScaling

SECONDS = 5
"""That one folder may take."""
ROOM = 256 * 2**20
"""Bytes that may be asked for beyond what the process has; the files are of some 40 kB."""
SIZES = {"vocabulary": 60, "width": 16, "layers": 2, "heads": 2, "kv_heads": 2, "head_width": 8, "hidden": 24}
PLAIN = DecoderConfig(**SIZES, context_length=32, family="llama", qk_norm=False)
SHAPES: list[DecoderConfig | EncoderConfig] = [
    DecoderConfig(**SIZES, context_length=32, window=4, window_layers=(1,)),
    DecoderConfig(**SIZES, context_length=32, family="qwen3_moe", experts=Experts(3, 2, 24, layers=(1,))),
    DecoderConfig(**SIZES, context_length=32, family="mixtral", qk_norm=False, experts=Experts(3, 2, 24)),
    DecoderConfig(**SIZES, context_length=32, family="qwen2", qk_norm=False, attention_bias=True),
    EncoderConfig(60, 16, 2, 2, 24, 32, masked_head=True),
    EncoderConfig(60, 16, 2, 2, 24, 30, family="roberta", pad=1, first_position=2),
]
for kind in ("linear", "dynamic", "yarn", "llama3"):
    scaling = RopeScaling(kind, 2.0, 16)
    SHAPES.append(
        DecoderConfig(**SIZES, context_length=32, family="llama", qk_norm=False, rope_scaling=scaling)
    )

DEEP = "[" * 100_000 + "]" * 100_000
VALUES = [
    *("-1", "0", "1", "2", "3", "1e9", "1000000000", "1000000000000", "9223372036854775808", "1" + "0" * 400),
    *("1" * 5000, "1e308", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "0.5", "2.0", "1e-320", "true"),
    *("false", "null", '""', '"7"', '"x"', '"\\u0000"', '"\\ud800"', "[]", "{}", "[1]", '["x"]', "[[[]]]"),
    *('{"a": 1}', DEEP, '"' + "x" * 100_000 + '"', "[" + "0," * 50_000 + "0]", "[null]", "[2147483647]"),
]
"""What may stand where something else is expected, as JSON."""
MARK = "\x01here\x01"


def some_json(data: Any, rng: random.Random) -> bytes:
    """The same with one value replaced, one field gone, renamed, or twice."""
    data = json.loads(json.dumps(data))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(data)
    node, key = rng.choice(places)
    act, value = rng.random(), rng.choice(VALUES)
    if act < 0.1:
        del node[key]
    elif act < 0.15 and isinstance(node, dict):
        node[rng.choice(["sliding_window", "rope_scaling", "head_dim", "x", ""])] = node.pop(key)
    elif act < 0.2 and isinstance(node, dict):
        twice = json.dumps(data).replace("{", "{" + json.dumps(key) + ": " + value + ", ", 1)
        return twice.encode("utf-8", "surrogatepass")
    else:
        node[key] = MARK
    return json.dumps(data).replace(json.dumps(MARK), value).encode("utf-8", "surrogatepass")


def some_bytes(content: bytes, rng: random.Random, first: int) -> bytes:
    """Bits turned among the `first` bytes, or cut, or longer."""
    act = rng.random()
    if act < 0.2:
        return content[: rng.randrange(len(content))]
    if act < 0.3:
        return content + rng.randbytes(rng.choice([1, 8, 4096]))
    spoilt = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        spoilt[rng.randrange(min(first, len(spoilt)))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def some_weights(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header lies."""
    size = struct.unpack("<Q", content[:8])[0]
    act = rng.random()
    if act < 0.35:
        return some_bytes(content, rng, 8 + size)
    if act < 0.5:
        lie = rng.choice([0, 1, size - 1, size + 1, size * 2, len(content), 2**31, 10**8, 2**63, 2**64 - 1])
        return struct.pack("<Q", lie) + content[8:]
    header = some_json(json.loads(content[8 : 8 + size]), rng)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def some_index(content: bytes, rng: random.Random) -> bytes:
    """An index of files that names others."""
    index = json.loads(content)
    if rng.random() < 0.5:
        return some_json(index, rng) if rng.random() < 0.6 else some_bytes(content, rng, len(content))
    names = ["../model.safetensors", "/etc/passwd", "..", "", "config.json", "a/b.safetensors", "x" * 300]
    names += ["model.safetensors.index.json", "\ud800.safetensors", "a\x00.safetensors", "/dev/zero", "."]
    index["weight_map"][rng.choice(list(index["weight_map"]))] = rng.choice(names)
    return json.dumps(index).encode()


@torch.no_grad()
def read(folder: Path, encoder: bool) -> None:
    """What is read must compute, too."""
    model = (read_encoder if encoder else read_decoder)(folder)
    model(torch.tensor([[0]]))


def written(shape: DecoderConfig | EncoderConfig, folder: Path) -> None:
    torch.manual_seed(0)
    if isinstance(shape, EncoderConfig):
        save_encoder(Encoder(shape), folder)
    else:
        write_model(Decoder(shape), folder)


def cases(folder: Path, count: int, seed: int) -> Iterator[tuple[str, Path, bool, Callable[[], None]]]:
    """Folders to read: what was done to each, where it is, and how to mend it for the next."""
    rng = random.Random(seed)
    places = []
    for number, shape in enumerate(SHAPES):
        places.append((folder / str(number), isinstance(shape, EncoderConfig)))
        written(shape, places[-1][0])
    sharded = folder / "0"
    content = (sharded / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    names = [name for name in header if name != "__metadata__"]
    many = folder / "many"
    many.mkdir()
    (many / "config.json").write_bytes((sharded / "config.json").read_bytes())
    (many / "one.safetensors").write_bytes(content)
    (many / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "one.safetensors")})
    )
    for turn in range(count):
        place, encoder = rng.choice(places)
        act = rng.random()
        if act < 0.15:
            place, encoder, name, edit = many, False, "model.safetensors.index.json", some_index
        elif act < 0.5:
            name, edit = "model.safetensors", some_weights
        elif act < 0.9:
            name, edit = "config.json", lambda content, rng: some_json(json.loads(content), rng)
        else:
            name, edit = "config.json", lambda content, rng: some_bytes(content, rng, len(content))
        file = place / name
        whole = file.read_bytes()
        file.write_bytes(edit(whole, rng))
        yield (
            f"{seed}/{turn}: {name} of {place.name}",
            place,
            encoder,
            lambda f=file, w=whole: f.write_bytes(w),
        )


def forbidden(event: str, _: Any) -> None:
    if event in (
        "pickle.find_class",
        "os.system",
        "os.exec",
        "subprocess.Popen",
        "socket.connect",
        "marshal.loads",
    ):
        raise SystemExit(f"code from a file: {event}")


def hang(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def main(folder: Path, count: int, seed: int) -> None:
    """Read them all under limits; the last line says what came of it."""
    torch.set_num_threads(1)
    for number, shape in enumerate(SHAPES):  # so that all that is loaded late is there
        written(shape, folder / "warm" / str(number))
        read(folder / "warm" / str(number), isinstance(shape, EncoderConfig))
    sys.addaudithook(forbidden)
    signal.signal(signal.SIGALRM, hang)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    came: Counter[str] = Counter()
    faults = []
    for told, place, encoder, mend in cases(folder, count, seed):
        signal.alarm(SECONDS)
        try:
            read(place, encoder)
            came["model"] += 1
        except UserError as error:
            came["sentence"] += 1
            if len(str(error)) > 1000 or "\n" in str(error):
                faults.append(f"{told}: a sentence of {len(str(error))} letters: {str(error)[:200]!r}")
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            faults.append(
                f"{told}: {type(error).__name__} {str(error)[:200]} at {frame.filename}:{frame.lineno}"
            )
        finally:
            signal.alarm(0)
            mend()
    print(json.dumps({"came": came, "faults": faults}))


@pytest.mark.parametrize("seed", [1, 2])
def test_there_is_a_model_or_a_sentence(tmp_path: Path, seed: int) -> None:
    """600 folders for each seed."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc, to know how much memory is in use")
    command = [sys.executable, __file__, str(tmp_path), "600", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"it ended with {done.returncode}: {done.stderr[-2000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["faults"] == []
    assert sum(found["came"].values()) == 600
    assert found["came"]["sentence"] > 300, "most of what was spoilt must be noticed"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"num_hidden_layers": 10**9}, "layers"),
        ({"num_hidden_layers": 9_000}, "9,000 layers"),
        ({"vocab_size": 10**12}, "vocabulary is 1000000000000"),
        ({"vocab_size": 2**31, "hidden_size": 2**31}, "cannot be|shape"),
        ({"vocab_size": float("nan")}, "vocabulary must be a whole number"),
        ({"rms_norm_eps": float("inf")}, "norm_eps must be a positive number"),
        ({"head_dim": 2**20}, "head_width is 1048576"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2}}, "longrope"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "differ from layer to layer"),
        ({"rms_norm_eps": 10**400}, "too large"),
        ({"hidden_act": "swish9"}, "swish9"),
        ({"model_type": "gptj"}, "families read here are"),
        ({"architectures": ["LlamaForTokenClassification"]}, "this command needs LlamaForCausalLM"),
        ({"architectures": "LlamaForCausalLM"}, "architectures must be a list"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_is_named(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    written(PLAIN, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(UserError, match=told):
        read_decoder(tmp_path)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing", tmp_path / "file"):
        with contextlib.suppress(FileExistsError):
            (tmp_path / "file").touch()
        with pytest.raises(UserError, match="There is no model in"):
            read_decoder(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
