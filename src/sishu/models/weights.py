"""Weights on disk: safetensors files, one or many, every tensor accounted for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sishu.console import UserError
from sishu.files import dump_json, whole, write_atomic
from sishu.models.families.family import Rule

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARD_SIZE = 5 * 10**9
"""Bytes of tensors beyond which a model is cut into several files, as Hugging Face cuts it."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""Kinds of numbers that weights are read from, in the format's words."""

PLAIN_NAME = re.compile(r"[\w-][\w.-]{0,200}\.safetensors", re.ASCII)
"""What a file of weights may be called in an index: no folder, nothing hidden."""

LONGEST_QUOTED = 200
"""Letters of a file that a sentence about it says at most."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

PREFIXES = ("model.", "transformer.", "bert.", "roberta.")
"""What published names begin with, which files of a bare trunk leave out."""


class StoredWeights:
    """The tensors of a folder by their published names; nothing is read until asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kinds: dict[str, str] = {}
        for path in _weight_files(folder):
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - it is no dictionary
                        if name in self.files:
                            raise UserError(f"{brief(name)!r} is in both {self.files[name]} and {path}.")
                        tensor = file.get_slice(name)
                        self.files[name] = path
                        self.shapes[name] = tuple(tensor.get_shape())
                        self.kinds[name] = tensor.get_dtype()
            except (SafetensorError, OSError) as error:
                raise _damaged(path, error) from error

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """These tensors, as they are stored."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.files[name], []).append(name)
        found: dict[str, Tensor] = {}
        for path, some in by_file.items():
            try:
                with safe_open(path, framework="pt") as file:
                    found |= {name: file.get_tensor(name) for name in some}
            except (SafetensorError, OSError) as error:
                raise _damaged(path, error) from error
        return found

    def renamed(self, rules: Sequence[Rule], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
        """Published names by the rules -> names in these files. Raises UserError for the first tensor that
        is missing or of another shape."""
        bare = not any(name.startswith(PREFIXES) for name in self.shapes)
        names = {}
        for rule in rules:
            for name, shape in rule.shapes(shapes).items():
                stored = next((n for n in _spellings(name, bare) if n in self.shapes), None)
                if stored is None:
                    raise UserError(f"{self.folder} lacks the tensor {name!r}: the files are not complete.")
                if self.shapes[stored] != shape:
                    found = brief(list(self.shapes[stored]))
                    raise UserError(
                        f"{stored!r} in {self.files[stored]} has shape {found}, but "
                        f"config.json asks for {list(shape)}."
                    )
                if self.kinds[stored] not in FLOATS:
                    raise UserError(
                        f"{stored!r} in {self.files[stored]} holds numbers of the kind {self.kinds[stored]}: "
                        "get the model in 16 or 32 bits, not a quantised one."
                    )
                names[name] = stored
        return names


def _spellings(name: str, bare: bool) -> list[str]:
    """How a tensor may be called: as it is; in a file of a bare trunk without the trunk's name; and in old
    files with gamma and beta for a normalisation's weight and bias."""
    names = [name]
    if bare:
        names += [name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)]
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    return names + [one.replace(new, was) for one in names for new, was in old.items() if one.endswith(new)]


def load_into(
    module: nn.Module,
    stored: StoredWeights,
    rules: Sequence[Rule],
    dtype: torch.dtype | None,
    ignored: Sequence[str] = (),
    twins: Mapping[str, str] | None = None,
) -> None:
    """Give a module (perhaps without memory yet, on the meta device) the stored weights, as `dtype` or as
    they are stored. Raises UserError naming a tensor that is missing, unknown or of the wrong shape.

    `ignored` are ends of names nobody needs; `twins` are names of tensors that repeat another.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    names = stored.renamed(rules, shapes)
    unknown = set(stored.shapes) - set(names.values())
    unknown = {name for name in unknown if not name.endswith(tuple(ignored) or ("\0",))}
    for copy, original in (twins or {}).items():
        if copy in unknown:
            both = stored.read([copy, names[original]])
            if not torch.equal(both[copy], both[names[original]]):
                raise UserError(
                    f"{copy!r} in {stored.files[copy]} differs from {names[original]!r}, but config.json "
                    "says that they are one (tie_word_embeddings)."
                )
            unknown.discard(copy)
    if unknown:
        first = min(unknown)
        raise UserError(f"{stored.files[first]} has an unknown tensor, {brief(first)!r}.")
    ours: dict[str, Tensor] = {}
    for rule in rules:
        theirs = stored.read(names[name] for name in rule.theirs)
        parts = rule.to_ours(
            {name: theirs[names[name]] for name in rule.theirs}, [shapes[name][0] for name in rule.ours]
        )
        # copied even where nothing changes: the library's tensors lie in the file itself, at odd addresses
        ours |= {name: _fresh(part, dtype or part.dtype) for name, part in parts.items()}
    module.load_state_dict(ours, assign=True)


def _fresh(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(tensor.shape, dtype=dtype).copy_(tensor)


def save_weights(weights: Mapping[str, Tensor], folder: Path, shard_size: int = SHARD_SIZE) -> None:
    """Write tensors under these names, several files and an index where they have more than `shard_size`
    bytes; each file appears in one step, and files of an earlier model that no longer belong go."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, weight in weights.items():
        if shards[-1] and filled + weight.nbytes > shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += weight.nbytes
    stem, count = WEIGHTS.removesuffix(".safetensors"), len(shards)
    files = {
        WEIGHTS if count == 1 else f"{stem}-{i:05}-of-{count:05}.safetensors": names
        for i, names in enumerate(shards, 1)
    }
    for file, names in files.items():
        with whole(folder / file) as temporary:
            ready = {name: weights[name].detach().contiguous().cpu() for name in names}
            save_file(ready, temporary, metadata={"format": "pt"})
            temporary.chmod(0o644)  # the library writes for the owner alone
    if count > 1:
        index = {
            "metadata": {"total_size": sum(weight.nbytes for weight in weights.values())},
            "weight_map": {name: file for file, names in files.items() for name in names},
        }
        write_atomic(folder / INDEX, dump_json(index))
    kept = {*files, *([INDEX] if count > 1 else [])}
    for path in folder.glob("model*.safetensors*"):
        if path.name not in kept:
            path.unlink()


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        if any(path.suffix in PICKLED for path in folder.iterdir()):
            raise UserError(
                f"{folder} holds pickled weights alone, which can run code when they are read: get the "
                "safetensors files of the model, or convert it with `transformers` where you trust it."
            )
        raise UserError(f"There are no weights in {folder}: {WEIGHTS} is missing.")
    try:
        names: Any = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not names or not all(isinstance(name, str) and PLAIN_NAME.fullmatch(name) for name in names):
            raise ValueError("weight_map must name files of this folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is not a usable index of weights: {brief(error)}.") from error
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise UserError(f"{folder} lacks {missing[0]!r}, of {len(names)} files of weights: get it as well.")
    return [folder / name for name in sorted(names)]


def brief(words: object) -> str:
    """The words of a stranger's file as one short line, for a sentence about them."""
    text = " ".join(str(words).split())
    return text if len(text) <= LONGEST_QUOTED else f"{text[:LONGEST_QUOTED]}…"


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged or cut ({brief(error)}): copy or train it again.")
