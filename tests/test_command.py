"""The `sishu` command itself: where it begins, what it says for help, and what it makes of a full memory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy
import pytest
import torch
from rich.text import Text

from sishu import cli

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT / "src"),
    "OMP_NUM_THREADS": "1",
    "PYTHONIOENCODING": "utf-8",
}
# what is imported is told on standard error as it happens
TELLING = [sys.executable, "-X", "importtime", "-m", "sishu", "recipes"]
STOPPED = "Stopped; the same command goes on where it was."


def interrupt_after_import(name: str, *, ignored: bool = False) -> tuple[int, str, str]:
    """Start the command and press Ctrl-C when it has imported `name`: exit code, output, errors from then."""
    process = subprocess.Popen(
        TELLING,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == name:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.parametrize("name", ["typer", "pydantic", "numpy"])
def test_control_c_while_the_command_is_imported_is_one_sentence(name: str) -> None:
    code, out, err = interrupt_after_import(name)
    said = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (code, out, said) == (130, "", [STOPPED])


def test_an_ignored_control_c_stays_ignored() -> None:
    code, out, _ = interrupt_after_import("typer", ignored=True)
    assert code == 0 and "quickstart" in out


def test_the_installed_command_begins_where_the_module_begins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"sishu": "sishu.command:main"}


def said_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Exit code, output and errors of the command, in this process."""
    monkeypatch.setattr(sys, "argv", ["sishu", *words])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def test_nothing_in_a_help_text_is_lost_to_markup() -> None:
    commands = [*cli.app.registered_commands, *cli.corpus_app.registered_commands]
    helps = [str(command.help) for command in commands]
    assert cli.corpus_app.registered_callback is not None
    helps.append(str(cli.corpus_app.registered_callback.help))
    assert len(helps) > 10
    assert [Text.from_markup(text).plain for text in helps] == [text.replace("\\[", "[") for text in helps]


def test_help_shows_the_seeds_and_the_settings_as_they_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said_by(monkeypatch, capsys, "crawl", "--help")
    assert (code, err) == (0, "")
    assert "sishu crawl seeds=[https://…]" in out
    assert "[OPTIONS] [KEY=VALUE]..." in out and "[[" not in out


def test_help_shows_the_commands_in_the_order_of_the_road(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said_by(monkeypatch, capsys, "--help")
    listed = re.findall(r"^│ (\w+) ", out, re.MULTILINE)
    assert (code, err) == (0, "")
    assert listed[listed.index("crawl") :][:4] == ["crawl", "corpus", "tokenizer", "pretrain"]


def test_help_of_corpus_shows_its_settings_and_its_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said_by(monkeypatch, capsys, "corpus", "--help")
    assert (code, err) == (0, "")
    assert "sishu corpus [OPTIONS] [KEY=VALUE]... | COMMAND" in out
    for words in ("KEY=VALUE", "--recipe", "--quiet", "│ explain ", "│ stats "):
        assert words in out
    for word, option in (("explain", "--text"), ("stats", "--tokenizer")):
        code, out, err = said_by(monkeypatch, capsys, "corpus", word, "--help")
        assert (code, err) == (0, "") and option in out and f"sishu corpus {word} [OPTIONS]" in out
        assert "KEY=VALUE" not in out


@pytest.mark.parametrize(
    ("words", "given", "run", "quiet"),
    [
        ([], None, None, False),
        (["data=a.txt", "languages=[en]"], ["data=a.txt", "languages=[en]"], None, False),
        (["data=a.txt", "-q", "held_out=0.1", "--run", "runs/x"], ["data=a.txt", "held_out=0.1"], "x", True),
        (["--run", "runs/x", "data=stats", "explain"], ["data=stats", "explain"], "x", False),
        (["--", "data=a.txt", "--run"], ["data=a.txt", "--run"], None, False),
    ],
)
def test_corpus_without_a_command_of_its_own_is_the_stage(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    given: list[str] | None,
    run: str | None,
    quiet: bool,
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(cli, "_stage", lambda *arguments: asked.append(arguments))
    code, _, err = said_by(monkeypatch, capsys, "corpus", *words)
    assert (code, err) == (0, "")
    assert asked == [("corpus", given, Path("runs") / run if run else None, None, quiet)]


@pytest.mark.parametrize(
    "words", [["--rn", "x"], ["stats", "--quiet"], ["explain"], ["data=a", "--json", "b"]]
)
def test_a_wrong_option_of_corpus_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    code, out, err = said_by(monkeypatch, capsys, "corpus", *words)
    assert (code, out) == (2, "") and err.count("\n") == 1 and "--help" in err


def test_the_bare_command_shows_its_help_and_no_stray_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said_by(monkeypatch, capsys)
    assert code == 2 and "Walk a whole road" in out and err == ""


def full_in_torch() -> None:
    torch.empty(1 << 55, dtype=torch.uint8)


def full_in_numpy() -> None:
    numpy.empty(1 << 55, dtype=numpy.uint8)


def full_on_a_gpu() -> None:
    # as PyTorch raises it
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("fill", [full_in_torch, full_in_numpy, full_on_a_gpu])
def test_a_full_memory_is_one_sentence_that_names_the_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fill: object
) -> None:
    monkeypatch.setattr(cli, "recipe_names", fill)
    code, _, err = said_by(monkeypatch, capsys, "recipes")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("The memory is full: lower train.micro_batch")


def test_another_failure_is_not_a_full_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "recipe_names", lambda: torch.zeros(2) + torch.zeros(3))
    code, _, err = said_by(monkeypatch, capsys, "recipes")
    assert code == 1 and "This is a fault in sishu" in err
