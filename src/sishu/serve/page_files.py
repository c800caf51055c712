"""A page's files, read once and served by name."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

from sishu.serve.errors import ApiError

# Named here, not guessed: some machines map .js to text/plain, which nosniff then refuses to run.
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}


SHARED = ("page.css", "language.js")
"""Files of the chat page that every page is made with."""


def add_page(app: FastAPI, room: str = "sishu.serve") -> None:
    """Serve a room's page: index.html at /, its companions and the shared files under /page/; no other path
    reaches the disk."""
    own = files(room).joinpath("page")
    found = [*own.iterdir(), *(files("sishu.serve").joinpath("page", name) for name in SHARED)]
    contents: dict[str, tuple[bytes, str]] = {}
    for file in found:
        kind = KINDS.get("." + file.name.rpartition(".")[2])
        if kind is not None:
            contents[file.name] = (file.read_bytes(), kind)

    def respond(name: str) -> Response:
        if name not in contents:
            raise ApiError(f"there is no page file named {name!r}", status=404)
        body, kind = contents[name]
        return Response(body, media_type=kind, headers={"cache-control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return respond("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def companion(name: str) -> Response:
        return respond(name)
