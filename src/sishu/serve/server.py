"""Starting the server: the port, uvicorn, and a clean end."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from functools import partial

import uvicorn
from fastapi import FastAPI

from sishu.console import UserError
from sishu.serve.guard import is_loopback

SECONDS_TO_FINISH = 3
"""How long answers under way may go on after the server is told to stop."""


def serve(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve `app` (from `create_app`) until interrupted.

    `on_ready` is called once with the address, such as "http://127.0.0.1:8000", when the server has its port
    and begins to answer.

    Raises UserError when the port cannot be had, or when `host` is reachable from other
    machines and the app has no key.
    """
    listener = bind(host, port)
    try:
        if not app.state.needs_key and not is_loopback(listener.getsockname()[0]):
            raise UserError(f"Serving on {host} lets other machines in: set an API key, or bind 127.0.0.1.")
        with contextlib.suppress(KeyboardInterrupt):
            server = build_server(app)
            if on_ready is not None:
                server.on_ready = partial(on_ready, _address(host, listener.getsockname()[1]))
            server.run(sockets=[listener])
    finally:
        listener.close()


class Server(uvicorn.Server):
    """A uvicorn server that says when it begins to answer."""

    on_ready: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the application and the sockets."""
        await super().startup(sockets)
        if self.started and self.on_ready is not None:
            self.on_ready()


def build_server(app: FastAPI) -> Server:
    """A server for `app`, quiet but for warnings; `.run(sockets=[bind(…)])` starts it."""
    return Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SECONDS_TO_FINISH,
        )
    )


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind(host: str, port: int) -> socket.socket:
    """A listening address; port 0 takes a free one. Raises UserError when it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise UserError(f"There is no address named {host}: bind 127.0.0.1 instead.") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":
        # Lets a restart reuse a port whose old connections linger; elsewhere it would steal ports.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(_why(host, port, error)) from error
    listener.set_inheritable(True)
    return listener


def _why(host: str, port: int, error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is already in use: stop the program that holds it, "
            f"or choose another with --port {port + 1}."
        )
    if number in (errno.EACCES, errno.EPERM):
        return f"Port {port} needs special rights: choose one above 1023, such as --port 8000."
    return f"Cannot listen on {host} port {port} ({error}): choose another --host or --port."
