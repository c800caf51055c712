"""Errors of the HTTP interface, in the shape OpenAI clients understand.

Every refusal is `{"error": {"message", "type", "param", "code"}}`; see
https://platform.openai.com/docs/guides/error-codes.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

BROKEN = "the model failed while answering; the server's log has the cause"


class ApiError(Exception):
    """A refusal: its HTTP status, a sentence for people, the field and a code for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON body of the refusal."""
        return {
            "error": {
                "message": self.message,
                "type": _kind(self.status),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """The refusal as an HTTP response."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def _kind(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    return "invalid_request_error" if status < 500 else "server_error"


def add_error_handlers(app: FastAPI, broken_words: str = BROKEN) -> None:
    """Make every failure of `app`, expected or not, answer in the one error shape; `broken_words` tell of one
    that was not expected."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _from_validation(error).response()

    async def routing(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        return ApiError(str(error.detail), status=error.status_code, headers=headers).response()

    async def broken(_request: Request, _error: Exception) -> JSONResponse:
        return ApiError(broken_words, status=500).response()

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(Exception, broken)


def _from_validation(error: RequestValidationError) -> ApiError:
    """The first thing pydantic found wrong; the location becomes `param`, as in messages.0.role."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return ApiError("the request body is not valid JSON")
    if not where:
        return ApiError("the request body must be a JSON object sent as application/json")
    param = ".".join(where)
    return ApiError(f"{param}: {first['msg']}", param=param)
