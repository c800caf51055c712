"""The floors of the house: imports go down only, nothing goes in a circle, no file outgrows a sitting."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src"
LONGEST = 450
"""Lines of the longest file that can still be read in one sitting."""
CODE = (".py", ".js", ".css", ".html", ".j2", ".yaml")


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml, on the tree at `root`."""
    code = "import sys; from importlinter.cli import lint_imports_command as c; c(sys.argv[1:])"
    words = ["--no-cache", "--no-logo", "--config", str(root / "pyproject.toml")]
    # the folder first on the path, so that it is this tree that is read, not an installed one
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root / 'src')!r}); {code}", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)


def test_imports_go_down_only_and_never_in_a_circle() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 3 kept, 0 broken." in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("models/decoder.py", "from sishu.train.trainer import Trainer", "Imports go down only"),
        ("console.py", "def late():\n    import sishu.config", "Imports go down only"),
        ("nn/norm.py", "from sishu.tokenizer import chat", "Imports go down only"),
        ("nn/norm.py", "from sishu.nn import attention", "No room goes in a circle"),
        ("serve/app.py", "from sishu.watch import stages", "Imports go down only"),
        ("run.py", "from sishu import track", "Imports go down only"),
        ("nowhere.py", "X = 1", "Imports go down only"),
        (
            "corpus/judge/ngrams.py",
            "from sishu.corpus.pipeline import plan",
            "Imports go down only in the corpus",
        ),
        (
            "corpus/read/rows.py",
            "from sishu.corpus.personal import scrub",
            "Imports go down only in the corpus",
        ),
        ("corpus/nowhere.py", "X = 1", "Imports go down only in the corpus"),
    ],
)
def test_the_contract_can_be_broken(tmp_path: Path, file: str, line: str, broken: str) -> None:
    shutil.copytree(SOURCES, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "src" / "sishu" / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode != 0
    assert f"{broken} BROKEN" in done.stdout, done.stdout + done.stderr


def files() -> list[Path]:
    return sorted(p for p in (SOURCES / "sishu").rglob("*") if p.suffix in CODE)


def test_no_file_outgrows_a_sitting() -> None:
    lines = {str(p.relative_to(SOURCES)): len(p.read_text(encoding="utf-8").splitlines()) for p in files()}
    assert len(lines) > 80
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_every_module_and_every_public_function_says_what_it_is_for() -> None:
    silent = []
    for path in files():
        if path.suffix != ".py" or path.name == "__init__.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not ast.get_docstring(tree):
            silent.append(str(path.relative_to(SOURCES)))
        silent += [
            f"{path.relative_to(SOURCES)}:{node.name}"
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
            and not any("command" in ast.unparse(d) for d in getattr(node, "decorator_list", []))
        ]
    assert silent == []
