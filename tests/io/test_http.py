"""Requests to a server that answers what it wants."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from moe_patch.io.http import Answer, is_server_address, send
from tests.stand_in import Prepared, answering

MOST = 1000


@pytest.fixture
def server() -> Iterator[Prepared]:
    with answering(Prepared(200, b"{}")) as prepared:
        yield prepared


def test_what_is_sent_arrives(server: Prepared) -> None:
    answer = send("POST", f"{server.url}/there", seconds=5, most_bytes=MOST, token="tokén", body={"a": [1]})
    assert answer == Answer(200, "OK", b"{}")
    assert answer.success
    [(method, path, headers, body)] = server.asked
    assert (method, path) == ("POST", "/there")
    assert headers["Authorization"].encode("latin-1") == "Bearer tokén".encode()
    assert headers["Accept-Encoding"] == "identity"
    assert json.loads(body) == {"a": [1]}


def test_no_more_is_read_than_is_allowed(server: Prepared) -> None:
    server.body = b"x" * 10**6
    assert send("GET", server.url, seconds=5, most_bytes=MOST).body == b"x" * MOST


def test_redirects_are_answers(server: Prepared) -> None:
    server.status, server.headers = 307, {"Location": f"{server.url}/else"}
    answer = send("GET", server.url, seconds=5, most_bytes=MOST, token="secret")
    assert (answer.status, answer.success) == (307, False)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "503 Service Unavailable"),
        (b'{"error": {"message": "too\\nlong", "code": 1}}', "503 Service Unavailable: too long"),
        (b'{"message": "no such model"}', "503 Service Unavailable: no such model"),
        (b'{"detail": [{"loc": "x"}]}', '503 Service Unavailable: [{"loc": "x"}]'),
        (b"\x1b[31mred\x00", "503 Service Unavailable: \\u001b[31mred\\u0000"),
        (b"<html>a page", "503 Service Unavailable"),
        (b"Service Unavailable", "503 Service Unavailable"),
        (b"[" * 100_000, "503 Service Unavailable: " + "[" * 300 + "... (1,000 characters)"),
    ],
)
def test_a_complaint_has_what_the_server_said(server: Prepared, body: bytes, complaint: str) -> None:
    server.status, server.body = 503, body
    assert send("GET", server.url, seconds=5, most_bytes=MOST).complaint == complaint


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://nowhere.invalid/", "http://[::1:80/"])
def test_no_answer_is_one_error(url: str) -> None:
    with pytest.raises(ConnectionError, match=r"."):
        send("GET", url, seconds=5, most_bytes=MOST)


def test_a_token_that_cannot_be_sent_is_not_shown(server: Prepared) -> None:
    with pytest.raises(ConnectionError) as error:
        send("GET", server.url, seconds=5, most_bytes=MOST, token="secret\nvalue")
    assert "secret" not in str(error.value)
    assert not server.asked


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://a", "http://", "http://a?b", "http://user@a", "http://[::1", "http://[x]/"],
)
def test_what_is_no_address_is_none(url: str) -> None:
    assert not is_server_address(url)
    assert is_server_address("http://localhost:8000/v1")
