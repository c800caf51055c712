"""The Python standard library's documentation as a web site on 127.0.0.1, made by `pydoc`.

Every Python brings about 640 pages (20 MB of HTML) of real English prose with it: enough to crawl,
clean and pretrain on without a network. The pages show what importing the modules shows, so the
site runs as a process of its own in which only the standard library can be imported, and with an
environment made from nothing.

Two runs of the same Python give the same bytes: the hash seed is 0, all modules are imported in one
fixed order before the first page is made, no page depends on which pages were asked for before, and
memory addresses (` at 0x7f…`) are taken out of the text, as pydoc itself does where it notices
them. Another machine or version of Python has other paths, versions and modules.

This file is also the program of the child process, where the package that it belongs to cannot be
imported, so it uses the standard library only.
"""

from __future__ import annotations

import contextlib
import html
import importlib
import io
import json
import os
import pkgutil
import pydoc
import re
import shutil
import subprocess  # noqa: S404  # nosec: our own interpreter, our own file
import sys
import tempfile
import threading
import urllib.parse
import warnings
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO

_START_SECONDS = 120.0
_RENDER_SECONDS = 60.0

_EXCLUDED = frozenset(
    # programs, tests, modules that act when imported, and what belongs to one installation
    "antigravity ensurepip idlelib lib2to3 pip pydoc_data setuptools site sitecustomize test tests "
    "this turtledemo usercustomize wheel".split()
)
_ROBOTS = "User-agent: *\nDisallow: /search?\nDisallow: /get?\n"
"""With the question mark: "/get" alone would also forbid /getopt.html and /gettext.html."""


class PydocSite:
    """The site in a child process, for the length of a `with` block.

        with PydocSite(modules=["json", "csv"]) as site:
            print(site.url)  # http://127.0.0.1:43121/

    The child ends with the block, and also when this process dies in any way: it holds the other
    end of a pipe that the operating system closes for us.

    Args:
        modules: serve only these top-level modules, with what is below them; None for all.
        port: 0 takes a free one.

    Raises:
        ValueError: a module is unknown or cannot be imported; the message names it.
        RuntimeError: the child did not come up.
    """

    def __init__(self, modules: Sequence[str] | None = None, port: int = 0) -> None:
        self.url = ""
        self._modules = None if modules is None else list(modules)
        self._port = port
        self._child: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> PydocSite:
        self._scratch = tempfile.TemporaryDirectory(
            prefix="sishu-pydoc-", ignore_cleanup_errors=True
        )
        base: str = getattr(
            sys, "_base_executable", sys.executable
        )  # not a virtual environment
        # -I would ignore PYTHONHASHSEED; with an environment of our own, -s -S -P are the rest of
        # it: no user site, no site-packages, no script directory on sys.path.
        self._child = subprocess.Popen(  # noqa: S603
            [base, "-s", "-S", "-P", "-B", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._scratch.name,
            env=_clean_environment(),
            start_new_session=True,  # Ctrl-C in the terminal is for the parent to handle
        )
        try:
            self.url = self._wait_until_up(self._child)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._child = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _wait_until_up(self, child: subprocess.Popen[bytes]) -> str:
        assert child.stdin is not None and child.stdout is not None
        alarm = threading.Timer(_START_SECONDS, child.kill)
        alarm.start()
        try:
            request = {"modules": self._modules, "port": self._port}
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            alarm.cancel()
        if not line:
            raise RuntimeError(
                "the documentation site did not start within two minutes or died"
            )
        answer: dict[str, str] = json.loads(line)
        if "unknown" in answer:
            raise ValueError(
                f"module {answer['unknown']!r} is not in the standard library of this Python or "
                "cannot be imported; take it out of the list of modules"
            )
        if "error" in answer:
            raise RuntimeError(
                f"the documentation site could not start: {answer['error']}"
            )
        return answer["url"]


def _clean_environment() -> dict[str, str]:
    environment = {
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "COLUMNS": "80",
        "HOME": os.sep,
    }
    if "SYSTEMROOT" in os.environ:  # Windows cannot open a socket without it
        environment["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    return environment


# ---- from here on: the child process ----


def _import_all(only: Sequence[str] | None) -> dict[str, ModuleType]:
    """Import every module that the site shows, by name, in sorted order."""
    names = sys.stdlib_module_names if only is None else only
    served: dict[str, ModuleType] = {}
    for name in sorted(set(names)):
        _import_tree(name, served)
    return served


def _import_tree(name: str, served: dict[str, ModuleType]) -> None:
    last = name.rpartition(".")[2]
    if last in _EXCLUDED or (last.startswith("_") and last != "__future__"):
        return
    try:
        module = importlib.import_module(name)
    except (
        BaseException
    ):  # modules of other systems fail in their own ways, SystemExit among them
        return
    served[name] = module
    for child in sorted(
        pkgutil.iter_modules(getattr(module, "__path__", [])), key=lambda c: c[1]
    ):
        _import_tree(f"{name}.{child.name}", served)


_ADDRESS = re.compile(
    r"(?: |&nbsp;)(?:at(?: |&nbsp;)0x|handle(?: |&nbsp;))[0-9a-fA-F]{8,16}\b"
)
_LINK = re.compile(r'<a href="([\w.]+)\.html(?:#[^"]*)?">(.*?)</a>', re.DOTALL)


class _Pages(pydoc.HTMLDoc):
    """pydoc's pages, linking only to what this site serves."""

    def __init__(self, served: dict[str, ModuleType]) -> None:
        super().__init__()
        self._served = served
        self._help = pydoc.Helper(io.StringIO(), io.StringIO())
        self._topics = sorted(
            key for key in pydoc.Helper.topics if self._help_text(key)[0]
        )
        self._keywords = sorted(
            key for key in pydoc.Helper.keywords if self._help_text(key)[0]
        )

    def render(self, path: str, query: str) -> str | None:
        """The page at a path such as "/json.html", or None when there is none."""
        if path == "/topic":
            return self._topic(urllib.parse.parse_qs(query).get("key", [""])[0])
        if not path.endswith(".html"):
            return None
        name = path.removeprefix("/").removesuffix(".html")
        if name == "index":
            top = sorted(module for module in self._served if "." not in module)
            return self._listing("Index of Modules", top)
        if name == "topics":
            return self._listing("Topics", self._topics)
        if name == "keywords":
            return self._listing("Keywords", self._keywords)
        if name not in self._served:
            return None
        module = self._served[name]
        return self.page(pydoc.describe(module), self.document(module, name))

    def page(self, title: str, contents: str) -> str:
        kept = {*self._served, "index", "topics", "keywords"}
        contents = _LINK.sub(
            lambda link: link[0] if link[1] in kept else link[2], contents
        )
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f"<title>Pydoc: {html.escape(title)}</title>\n</head><body>\n"
            '<div><a href="index.html">Module Index</a> : <a href="topics.html">Topics</a> : '
            f'<a href="keywords.html">Keywords</a></div>\n{_ADDRESS.sub("", contents)}\n'
            "</body></html>\n"
        )

    def _topic(self, key: str) -> str | None:
        if key not in self._topics and key not in self._keywords:
            return None
        text, related = self._help_text(key)
        title = f"{'Keyword' if key in self._keywords else 'Topic'} {key}"
        contents = self._heading(title)
        contents += self.bigsection(key, "index", f"<pre>{self.markup(text)}</pre>")
        if related:
            contents += self._links("Related help topics", sorted(related.split()))
        return self.page(title, contents)

    def _help_text(self, key: str) -> tuple[str, str]:
        """The text on a topic and the names of related ones; ("", "") where Python has none."""
        try:
            text, related = self._help._gettopic(key)  # type: ignore[attr-defined]
        except (ValueError, KeyError):  # `True` is a keyword without a text of its own
            return "", ""
        return text, related

    def _listing(self, title: str, names: Sequence[str]) -> str:
        return self.page(title, self._heading(title) + self._links(title, names))

    def _heading(self, title: str) -> str:
        return str(self.heading(f'<strong class="title">{html.escape(title)}</strong>'))

    def _links(self, title: str, names: Sequence[str]) -> str:
        return str(self.bigsection(title, "index", self.multicolumn(names, self._link)))

    def _link(self, name: str) -> str:
        label = html.escape(name)
        if name in self._topics or name in self._keywords:
            return f'<a href="topic?key={urllib.parse.quote(name)}">{label}</a>'
        return f'<a href="{label}.html">{label}</a>' if name in self._served else label


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pages: _Pages
    lock = threading.Lock()  # pydoc and the import system were not written for threads

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        if path == "/":
            self._answer(301, "", location="/index.html")
        elif path == "/robots.txt":
            self._answer(200, _ROBOTS, kind="text/plain")
        elif not self.lock.acquire(timeout=_RENDER_SECONDS):
            self._answer(503, "another page takes too long\n", kind="text/plain")
        else:
            try:
                page = self.pages.render(path, url.query)
                self._answer(404 if page is None else 200, page or "no such page\n")
            except Exception as error:
                self._answer(500, f"{type(error).__name__}\n", kind="text/plain")
            finally:
                self.lock.release()

    def _answer(
        self, status: int, text: str, kind: str = "text/html", location: str = ""
    ) -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response_only(
            status
        )  # without the Date and Server headers: reproducible bytes
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def _private_pipes() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Take the pipes to the parent away from modules: their reads and prints go to nowhere."""
    from_parent, to_parent = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    with from_parent, to_parent:
        yield from_parent, to_parent


def _exit_with_parent(from_parent: IO[bytes]) -> None:
    from_parent.read()
    scratch = Path.cwd()
    os.chdir(scratch.anchor)
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def _serve() -> None:
    with _private_pipes() as (from_parent, to_parent):
        request = json.loads(from_parent.readline())
        threading.Thread(
            target=_exit_with_parent, args=(from_parent,), daemon=True
        ).start()
        sys.argv[:] = [""]
        sys.orig_argv[:] = [sys.executable]
        sys.modules["__main__"] = ModuleType(
            "__main__"
        )  # the page on sys names its path
        warnings.simplefilter("ignore")
        answer: dict[str, str] = {}
        try:
            served = _import_all(request["modules"])
            for name in request["modules"] or ():
                if name not in served:
                    answer = {"unknown": name}
            _Handler.pages = _Pages(served)
            server = ThreadingHTTPServer(("127.0.0.1", request["port"]), _Handler)
            server.daemon_threads = True
            answer = answer or {"url": f"http://127.0.0.1:{server.server_port}/"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        to_parent.write(json.dumps(answer).encode() + b"\n")
        to_parent.flush()
        if "url" in answer:
            server.serve_forever()


if __name__ == "__main__":
    _serve()
