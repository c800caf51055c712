"""The web application: a page, and the figures it asks for, behind the guard of `sishu serve`."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from sishu.serve.errors import ApiError, add_error_handlers
from sishu.serve.guard import Guard
from sishu.serve.page_files import add_page
from sishu.watch.stages import RunWatch


def create_app(folder: Path) -> FastAPI:
    """An app that shows the run in `folder`; raises UserError when it is no run's."""
    watched = RunWatch(folder)
    # The interactive documentation pages would load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.needs_key = False
    app.add_middleware(Guard)
    add_error_handlers(app, "the run could not be read; the server's log has the cause")

    @app.get("/watch/run")
    def run() -> Response:
        return JSONResponse(watched.overview())

    @app.get("/watch/stages/{stage}")
    def charts(stage: str, seen: int | None = None) -> Response:
        try:
            found = watched.charts(stage, seen)
        except KeyError as error:
            raise ApiError(f"the run has no stage {stage!r}", status=404) from error
        return Response(status_code=204) if found is None else JSONResponse(found)

    add_page(app, "sishu.watch")
    return app
