"""`sishu watch`: a run's curves in the browser, while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/quickstart.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8001,
) -> None:
    """Show a run's stages and curves on a local page that keeps up with them."""
    # here, because the web framework would slow the start of every other command
    from sishu.serve.server import serve
    from sishu.watch.app import create_app

    def tell(place: str) -> None:
        print(f"Watching {run} at {place}. Ctrl-C stops the watching, not the run.", flush=True)

    serve(create_app(run), port=port, on_ready=tell)
