"""The web application: the OpenAI-compatible interface and the chat page, behind one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from sishu.console import UserError
from sishu.generate.engine import Engine
from sishu.serve.errors import add_error_handlers
from sishu.serve.guard import Guard
from sishu.serve.openai_api import router
from sishu.serve.page_files import add_page
from sishu.serve.worker import Worker


def create_app(
    engines: Mapping[str, Callable[[], Engine] | Engine],
    default: str,
    api_key: str | None = None,
) -> FastAPI:
    """An app that serves `engines` (model id to an engine, or to a function that loads one).

    Engines load once, on first use. `default` answers requests that name no model and stands
    first in the list. With `api_key`, /v1/* needs it as a bearer token.

    Raises UserError when `default` is not among `engines` or the key is blank.
    """
    if default not in engines:
        raise UserError(
            f"There is no model named {default!r} to serve by default: choose one of "
            f"{', '.join(engines) or '(none given)'}."
        )
    if api_key is not None and not (api_key.strip() and api_key.isascii()):
        raise UserError("The API key must be a non-empty string of ASCII characters.")
    worker = Worker(engines)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.shut_down()

    # The interactive documentation pages would load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.worker = worker
    app.state.default_model = default
    app.state.needs_key = api_key is not None
    app.add_middleware(Guard, api_key=api_key)
    add_error_handlers(app)
    app.include_router(router)
    add_page(app)
    return app
