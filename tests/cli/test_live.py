"""`moe-patch live` and `moe-patch serve`, without a server; tests/serving runs real ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run

TOKEN = "0123456789abcdef"
CHANGED = {
    "operation": "add",
    "version": "sha256:1",
    "seconds": {"drain": 0.25, "apply": 0.5, "self_test": 0.1, "pause": 0.85},
    "self_test": {
        "asked": 4,
        "right": 3,
        "answers": [],
        "moved": [{"controls": 8, "fall": 0.031, "limit": 0.1}],
    },
}


class Recorder(ThreadingHTTPServer):
    """A server that gives prepared answers and records its requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body, self.headers = 200, json.dumps(CHANGED), {}
        self.asked: list[tuple[str, str, Any, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Recorder

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, body, self.headers.get("Authorization")))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body.encode())

    do_GET = do_POST = do_DELETE = answer  # noqa: N815  the names that http.server calls

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recorder]]:
    monkeypatch.setenv("MOE_PATCH_TOKEN", TOKEN)
    running = [Recorder(), Recorder()]
    for server in running:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield running
    for server in running:
        server.shutdown()
        server.server_close()


def test_what_is_sent(run: Run, servers: list[Recorder], tmp_path: Path) -> None:
    server = servers[0]
    url = ("--url", server.url)
    run("live", "add", tmp_path / "p", "--position", "2", "--share", "0.9", *url)
    run("live", "add", "hf://org/name@v1", "--unproved", "--allow-large", *url)
    run("live", "remove", "a/b", *url)
    run("live", "reorder", "b", "a", *url)
    run("live", "rollback", *url)
    bearer, usual = f"Bearer {TOKEN}", {"facts": 16, "share": 0.5, "unproved": False}
    path, name = str(tmp_path / "p"), "hf://org/name@v1"
    first = {"path": path, "position": 2, "self_test": usual | {"share": 0.9}, "allow_large": False}
    second = {"path": name, "self_test": usual | {"unproved": True}, "allow_large": True}
    assert server.asked == [
        ("POST", "/moe_patch/patches", first, bearer),
        ("POST", "/moe_patch/patches", second, bearer),
        ("DELETE", "/moe_patch/patches/a%2Fb", None, bearer),
        ("POST", "/moe_patch/reorder", {"patches": ["b", "a"]}, bearer),
        ("POST", "/moe_patch/rollback", {"self_test": {"unproved": False}}, bearer),
    ]


def test_what_is_shown(run: Run, servers: list[Recorder]) -> None:
    shown = run("live", "add", "p", "--url", servers[0].url).stdout
    assert all(part in shown for part in ("sha256:1", "3 of 4", "0.031 of 0.1 nats", "0.25 s", "0.85 s"))
    shown = json.loads(run("live", "rollback", "--url", servers[0].url, "--json").stdout)
    assert shown == {"servers": [{"url": servers[0].url, **CHANGED}]}


def test_if_one_server_cannot_those_before_it_go_back(run: Run, servers: list[Recorder]) -> None:
    first, second = servers
    second.status, second.body = 422, json.dumps({"error": {"code": "self_test_failed", "message": "No."}})
    result = run("live", "add", "p", "--url", first.url, "--url", second.url)
    assert result.exit_code == 1
    assert f"Error: {second.url}: No. (self_test_failed)" in result.stderr
    assert f"{first.url} was changed back." in result.stderr
    assert [asked[1] for asked in first.asked] == ["/moe_patch/patches", "/moe_patch/rollback"]


def test_the_token_is_not_sent_where_a_server_points(run: Run, servers: list[Recorder]) -> None:
    first, second = servers
    first.status, first.headers = 307, {"Location": f"{second.url}/moe_patch/stack"}
    result = run("live", "list", "--url", first.url)
    assert result.exit_code == 1
    assert "it answers 307" in result.stderr
    assert second.asked == []


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, "<html>", "the answer is not JSON"),
        (200, "[]", "the answer is not a JSON object"),
        (404, '{"detail":"Not Found"}', "it answers 404 Not Found: does it run with live patches?"),
        (500, "", "it answers 500"),
    ],
)
def test_other_answers_are_one_line(
    run: Run, servers: list[Recorder], status: int, body: str, said: str
) -> None:
    servers[0].status, servers[0].body = status, body
    result = run("live", "list", "--url", servers[0].url)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host", "http://", "http://user@host", "http://host?a=b"]
)
def test_addresses_that_are_none(run: Run, url: str) -> None:
    result = run("live", "list", "--url", url)
    assert result.exit_code == 1
    assert "expected an address such as" in result.stderr


def test_nobody_there(run: Run, servers: list[Recorder]) -> None:
    servers[0].server_close()
    result = run("live", "list", "--url", servers[0].url)
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr


def test_a_token_file_wins_over_the_environment(run: Run, servers: list[Recorder], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another-token-entirely\n")
    run("live", "rollback", "--url", servers[0].url, "--token-file", tmp_path / "token")
    assert servers[0].asked[0][3] == "Bearer another-token-entirely"


@pytest.mark.parametrize("text", ["a", "=folder", "a=", "a=/no/such/folder"])
def test_adapters_that_are_none(run: Run, text: str) -> None:
    result = run("serve", "--adapters", text)
    assert result.exit_code == 2
    assert "expected NAME=FOLDER" in result.stderr


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_there_is_one_line_that_says_so(run: Run) -> None:
    result = run("serve")
    assert result.exit_code == 1
    assert result.stderr == "Error: vLLM is not installed: pip install 'moe-patch[vllm]'\n"
