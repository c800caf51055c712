"""The door of the server: who may ask, from where, how much; and the headers on every answer.

Pure ASGI, because a middleware built on request objects would buffer streams and hide the
client's disconnect.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sishu.serve.errors import ApiError

MAX_BODY_BYTES = 4 * 1024 * 1024
TOO_LARGE = f"the request body is larger than {MAX_BODY_BYTES} bytes"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Wraps an app; every HTTP request passes its checks before a route sees it.

    `api_key`: when set, /v1/* needs `Authorization: Bearer KEY`.
    """

    def __init__(self, app: ASGIApp, api_key: str | None = None) -> None:
        self._app = app
        self._key_digest = _digest(api_key) if api_key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request, then pass it on with a bounded body and guarded answer headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = False

        async def guarded_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, _bounded(receive), guarded_send)
        except ApiError as error:
            if started:
                raise
            await error.response()(scope, receive, guarded_send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        # The address the connection arrived at, not the one the client names.
        if is_loopback((scope.get("server") or ("",))[0]):
            _check_host(headers.getlist("host"))
        if not scope["path"].startswith("/v1/"):
            return
        if self._key_digest is not None:
            _check_key(headers.get("authorization", ""), self._key_digest)
        if scope["method"] == "POST":
            # A foreign page can post text/plain without asking; JSON makes its browser ask first.
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError("send the body as application/json")
            length = headers.get("content-length", "0")
            if length.isdecimal() and int(length) > MAX_BODY_BYTES:
                raise ApiError(TOO_LARGE, status=413)


def is_loopback(host: str) -> bool:
    """Whether `host` is an address that only this machine can reach."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _check_host(hosts: Iterable[str]) -> None:
    """Refuse foreign Host headers: a web page elsewhere may have pointed its name at this machine.

    This is DNS rebinding; the browser then thinks this server is that page's own.
    """
    for host in hosts:
        name = host.lower()
        if not name.endswith("]"):
            head, colon, port = name.rpartition(":")
            name = head if colon and port.isdecimal() else name
        if name not in LOOPBACK_NAMES:
            raise ApiError(
                "this server answers only to localhost; open it as http://localhost or "
                "http://127.0.0.1 with its port",
                status=403,
                code="host_not_allowed",
            )


def _check_key(authorization: str, key_digest: bytes) -> None:
    scheme, _, given = authorization.partition(" ")
    # Digests have one length, so the comparison tells nothing about the key's.
    if not hmac.compare_digest(_digest(given.strip()), key_digest) or scheme.lower() != "bearer":
        raise ApiError(
            "this server needs its key: send Authorization: Bearer KEY",
            status=401,
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _bounded(receive: Receive) -> Receive:
    """`receive` that refuses a body longer than MAX_BODY_BYTES, however it is sent."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY_BYTES:
            # FastAPI lets this exception, and no other, out of its body parser as it is.
            raise HTTPException(413, TOO_LARGE)
        return message

    return bounded
