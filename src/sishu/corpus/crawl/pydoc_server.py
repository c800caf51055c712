"""The program behind `pydoc_site`: a web server for the standard library's documentation.

It is run by its path, with nothing but the standard library to import, so it uses nothing else. The
parent sends one line of JSON, {"modules": [names] or null, "port": number}, on standard input and
gets one back: {"url"}, {"unknown": module} or {"error": text}. When standard input ends, so does
the process: the operating system closes that pipe however the parent dies.
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
import sys
import tempfile
import threading
import urllib.parse
import warnings
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import IO

_RENDER_SECONDS = 60.0
"""How long a request waits for another's page before it is told to come back."""

_EXCLUDED = frozenset(
    # programs, tests, modules that act when imported, and what belongs to one installation
    [
        "antigravity",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pip",
        "pydoc_data",
        "setuptools",
        "site",
        "sitecustomize",
        "test",
        "tests",
        "this",
        "turtledemo",
        "usercustomize",
        "wheel",
    ]
)
_ROBOTS = "User-agent: *\nDisallow: /search?key=\nDisallow: /get?key=\n"
"""With the query: "/get" alone would also forbid /getopt.html and /gettext.html."""


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
    except BaseException:  # modules of other systems fail in their own ways, SystemExit among them
        return
    served[name] = module
    for child in sorted(pkgutil.iter_modules(getattr(module, "__path__", [])), key=lambda c: c[1]):
        _import_tree(f"{name}.{child.name}", served)


_ADDRESS = re.compile(r"(?: |&nbsp;)(?:at(?: |&nbsp;)0x|handle(?: |&nbsp;))[0-9a-fA-F]{8,16}\b")
_LINK = re.compile(r'<a href="([\w.]+)\.html(?:#[^"]*)?">(.*?)</a>', re.DOTALL)


class _Pages(pydoc.HTMLDoc):
    """pydoc's pages, linking only to what this site serves."""

    def __init__(self, served: dict[str, ModuleType]) -> None:
        super().__init__()
        self._served = served
        self._help = pydoc.Helper(io.StringIO(), io.StringIO())
        self._topics = sorted(key for key in pydoc.Helper.topics if self._help_text(key)[0])
        self._keywords = sorted(key for key in pydoc.Helper.keywords if self._help_text(key)[0])

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
        contents = _LINK.sub(lambda link: link[0] if link[1] in kept else link[2], contents)
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
        return str(self.bigsection(title, "index", self.multicolumn(list(names), self._link)))

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

    def _answer(self, status: int, text: str, kind: str = "text/html", location: str = "") -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response_only(status)  # without the Date and Server headers: reproducible bytes
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


def _exit_with_parent(from_parent: IO[bytes], scratch: str) -> None:
    from_parent.read()
    os.chdir(Path(scratch).anchor)
    with contextlib.suppress(OSError):
        os.rmdir(scratch)  # noqa: PTH106  # only if empty: nothing is ever deleted with it
    os._exit(0)


def _serve() -> None:
    with _private_pipes() as (from_parent, to_parent):
        request = json.loads(from_parent.readline())
        scratch = tempfile.mkdtemp(prefix="sishu-pydoc-")
        os.chdir(scratch)  # where modules that read or write files when imported will do it
        threading.Thread(target=_exit_with_parent, args=(from_parent, scratch), daemon=True).start()
        script, sys.argv[:] = sys.argv[0], [""]
        sys.orig_argv[:] = [sys.executable]
        # the page on sys would name this file twice over
        sys.modules["__main__"] = ModuleType("__main__")
        sys.path_importer_cache.pop(script, None)
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
