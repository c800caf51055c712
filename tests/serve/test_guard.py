"""The door: keys, foreign hosts, foreign pages, large bodies, headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from sishu.generate.engine import Engine
from sishu.serve.app import create_app
from sishu.serve.guard import MAX_BODY_BYTES, is_loopback

KEY = "correct horse battery"


@pytest.fixture(scope="module")
def engine(tiny_model_folder: Path) -> Engine:
    return Engine.load(tiny_model_folder)


@pytest.fixture(scope="module")
def address(engine: Engine, start_server: Callable[..., str]) -> str:
    return start_server(create_app({"tiny": engine}, "tiny"))


@pytest.fixture(scope="module")
def locked(engine: Engine, start_server: Callable[..., str]) -> str:
    return start_server(create_app({"tiny": engine}, "tiny", api_key=KEY))


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Bearer {KEY}x", f"Basic {KEY}", KEY])
def test_a_key_is_needed(locked: str, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given}
    for answer in (
        httpx.get(f"{locked}/v1/models", headers=headers),
        httpx.post(f"{locked}/v1/completions", headers=headers, json={"prompt": "x"}),
        httpx.get(f"{locked}/v1/anything", headers=headers),
    ):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_key_opens(locked: str) -> None:
    for scheme in ("Bearer", "bearer"):
        headers = {"authorization": f"{scheme} {KEY}"}
        assert httpx.get(f"{locked}/v1/models", headers=headers).status_code == 200


def test_health_and_page_need_no_key(locked: str) -> None:
    assert httpx.get(f"{locked}/health").status_code == 200
    assert httpx.get(locked).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "",
    ],
)
def test_foreign_hosts_are_refused_on_loopback(address: str, host: str) -> None:
    for path in ("/", "/health", "/v1/models"):
        answer = httpx.get(f"{address}{path}", headers={"host": host})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]", "[::1]:8"])
def test_own_hosts_are_served(address: str, host: str) -> None:
    assert httpx.get(f"{address}/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("", False),
        ("unix-socket", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_bodies_a_foreign_page_could_post_are_refused(address: str, kind: str) -> None:
    answer = httpx.post(
        f"{address}/v1/completions",
        content=b'{"prompt": "x", "max_tokens": 1}',
        headers={"content-type": kind, "origin": "https://evil.example"},
    )
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


def test_no_other_origin_is_invited(address: str) -> None:
    answer = httpx.options(
        f"{address}/v1/completions",
        headers={
            "origin": "https://evil.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        },
    )
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_large_bodies_are_refused_however_they_come(address: str) -> None:
    body = b'{"prompt": "' + b"x" * MAX_BODY_BYTES + b'"}'
    headers = {"content-type": "application/json"}
    declared = httpx.post(f"{address}/v1/completions", content=body, headers=headers)
    assert declared.status_code == 413

    def chunks():  # type: ignore[no-untyped-def]
        for start in range(0, len(body), 1 << 18):
            yield body[start : start + (1 << 18)]

    chunked = httpx.post(f"{address}/v1/completions", content=chunks(), headers=headers)
    assert chunked.status_code == 413


def test_every_answer_carries_the_guarding_headers(address: str) -> None:
    for path in ("/", "/page/page.js", "/page/page.css", "/v1/models", "/v1/nothing"):
        headers = httpx.get(f"{address}{path}").headers
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy
    assert httpx.get(f"{address}/page/page.js").headers["content-type"].startswith("text/javascript")
