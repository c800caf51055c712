"""The Python standard library's documentation as a web site on 127.0.0.1, made by `pydoc`.

Every Python brings about 600 pages (20 MB of HTML) of real English prose with it: enough to crawl,
clean and pretrain on without a network. A page shows what importing its module shows, so the site
is a process of its own (`pydoc_server`), in which only the standard library can be imported, with
an environment made from nothing.

Two runs of the same Python give the same bytes: the hash seed is 0, all modules are imported in one
fixed order before the first page is made, no page depends on which pages were asked for before, and
memory addresses (` at 0x7f…`) are taken out of the text, as pydoc itself does where it notices
them. Another machine or version of Python has other paths, versions and modules, and a site
restricted to some modules has fewer links.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from sishu.console import UserError

# named in full, so that `sishu.run.code_digest` sees it
_MODULE = "sishu.corpus.crawl.pydoc_server"
_SERVER = Path(__file__).resolve().with_name(_MODULE.rpartition(".")[2] + ".py")
_START_SECONDS = 120.0
_STOP_SECONDS = 5.0


class PydocSite:
    """The site in a child process, for the length of a `with` block.

        with PydocSite(modules=["json", "csv"]) as site:
            print(site.url)  # http://127.0.0.1:43121/

    The child ends with the block, and also when this process dies in any way.

    Args:
        modules: serve only these top-level modules, with what is below them; None for all. Topic
            and keyword pages are always there.
        port: 0 takes a free one.

    Raises:
        UserError: a module is unknown or cannot be imported, the port is taken, or the child did
            not come up.
    """

    def __init__(self, modules: Sequence[str] | None = None, port: int = 0) -> None:
        self.url = ""
        """With a slash at the end; "" outside the block."""
        self._modules = None if modules is None else list(modules)
        self._port = port
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PydocSite:
        # Not a virtual environment's interpreter, whose path would show in the pages.
        base: str = getattr(sys, "_base_executable", sys.executable)
        # -I would ignore PYTHONHASHSEED; with an environment of our own, -s -S -P are the rest of
        # it: no user site, no site-packages, no script directory on sys.path.
        self._child = subprocess.Popen(
            [base, "-s", "-S", "-P", "-B", str(_SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_clean_environment(),
            start_new_session=True,  # Ctrl-C in the terminal is for the parent to handle
        )
        try:
            self.url = self._wait_until_up(self._child)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        child, self._child, self.url = self._child, None, ""
        if child is None or child.stdin is None or child.stdout is None:
            return
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()  # the child's sign to leave
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()

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
            raise UserError(
                "the documentation site's process died or was not up after two minutes; "
                f"see what {_SERVER.name} says when this Python runs it by hand"
            )
        answer: dict[str, str] = json.loads(line)
        if "unknown" in answer:
            raise UserError(
                f"module {answer['unknown']!r} is not in the standard library of this Python, not "
                "shown, or not importable; take it out of the list of modules"
            )
        if "error" in answer:
            raise UserError(f"the documentation site could not start ({answer['error']}); try another port")
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
