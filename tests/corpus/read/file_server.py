"""A web server on this machine that gives files as good and as bad servers do."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What the server gives, how it behaves, and what it was asked."""

    url: str = ""
    content: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    cuts: int = 0
    """How many more answers end in the middle."""
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests with their ranges, by address."""
    answer: Callable[[str], bytes | None] | None = None
    """Gives what no file does."""


@contextmanager
def file_server() -> Iterator[Files]:
    files = Files()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._give(body=False)

        def do_GET(self) -> None:
            self._give(body=True)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._give(body=True)

        def _give(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            asked = self.headers.get("Range", "")
            if body:
                files.asked[path, asked] += 1
            data = files.content.get(path)
            if data is None and files.answer:
                data = files.answer(self.path)
            status = files.status.get(path, 200 if data is not None else 404)
            data = data if data is not None and status == 200 else b""
            start, end = 0, len(data)
            if asked and files.ranges and status == 200:
                first, last = asked.removeprefix("bytes=").split("-")
                start, end = int(first), min(int(last) + 1 if last else end, end)
                status = 206
            self.send_response(status)
            kind = "application/json" if data[:1] in (b"{", b"[") else "application/octet-stream"
            self.send_header("Content-Type", "text/html" if data.startswith(b"<") else kind)
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", '"0123456789abcdef"')
            self.send_header("X-Repo-Commit", "0" * 40)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            self.end_headers()
            if not body:
                return
            if files.cuts and end - start > 1:
                files.cuts -= 1
                self.wfile.write(data[start : (start + end) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)
                return
            self.wfile.write(data[start:end])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
