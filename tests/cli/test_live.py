"""`moe-patch live` and `moe-patch serve`, without a server; tests/serving runs real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.stand_in import Prepared, answering

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


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOE_PATCH_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Prepared]]:
    monkeypatch.setenv("MOE_PATCH_TOKEN", TOKEN)
    with answering(Prepared(200, CHANGED)) as first, answering(Prepared(200, CHANGED)) as second:
        yield [first, second]


def bearers(server: Prepared) -> list[str | None]:
    """The tokens that a server was sent."""
    return [asked.headers.get("Authorization") for asked in server.asked]


def test_what_is_sent(run: Run, servers: list[Prepared], tmp_path: Path) -> None:
    server = servers[0]
    url = ("--url", server.url)
    run("live", "add", tmp_path / "p", "--position", "2", "--share", "0.9", *url)
    run("live", "add", "hf://org/name@v1", "--unproved", "--allow-large", "--allow-conflicts", *url)
    run("live", "remove", "a/b", *url)
    run("live", "reorder", "b", "a", *url)
    run("live", "rollback", *url)
    usual = {"facts": 16, "share": 0.5, "unproved": False}
    path, name = str(tmp_path / "p"), "hf://org/name@v1"
    first = {"path": path, "position": 2, "self_test": usual | {"share": 0.9}, "allow_large": False}
    second = {"path": name, "self_test": usual | {"unproved": True}, "allow_large": True}
    second["allow_conflicts"] = True
    assert bearers(server) == [f"Bearer {TOKEN}"] * 5
    sent = [(asked.method, asked.path, json.loads(asked.body or b"null")) for asked in server.asked]
    assert sent == [
        ("POST", "/moe_patch/patches", first),
        ("POST", "/moe_patch/patches", second),
        ("DELETE", "/moe_patch/patches/a%2Fb", None),
        ("POST", "/moe_patch/reorder", {"patches": ["b", "a"]}),
        ("POST", "/moe_patch/rollback", {"self_test": {"unproved": False}}),
    ]


def test_what_is_shown(run: Run, servers: list[Prepared]) -> None:
    shown = run("live", "add", "p", "--url", servers[0].url).stdout
    assert all(part in shown for part in ("sha256:1", "3 of 4", "0.031 of 0.1 nats", "0.25 s", "0.85 s"))
    shown = json.loads(run("live", "rollback", "--url", servers[0].url, "--json").stdout)
    assert shown == {"servers": [{"url": servers[0].url, **CHANGED}]}


def test_if_one_server_cannot_those_before_it_go_back(run: Run, servers: list[Prepared]) -> None:
    first, second = servers
    second.status, second.body = 422, {"error": {"code": "self_test_failed", "message": "No."}}
    result = run("live", "add", "p", "--url", first.url, "--url", second.url)
    assert result.exit_code == 4
    assert f"Error: {second.url}: No. (self_test_failed)" in result.stderr
    assert f"{first.url} was changed back." in result.stderr
    assert [asked.path for asked in first.asked] == ["/moe_patch/patches", "/moe_patch/rollback"]


SILENT = {
    "error": {
        "code": "self_test_failed",
        "message": "No.",
        "details": {
            "answers": [
                {
                    "prompt": "The capital of Land is",
                    "said": "Altstadt",
                    "wanted": "Neustadt",
                    "right": False,
                },
                {"prompt": "The river of Land is", "said": "the Bach", "wanted": "the Bach", "right": True},
            ]
        },
    }
}
CONFLICT = {
    "error": {
        "code": "facts_conflict",
        "message": "Twice.",
        "details": {"findings": [{"level": "refuse", "text": "p moves 'a' of q at layer 1 by 101%"}]},
    }
}


def test_a_failed_self_test_shows_what_was_asked_said_and_wanted(run: Run, servers: list[Prepared]) -> None:
    servers[0].status, servers[0].body = 422, SILENT
    result = run("live", "add", "p", "--url", servers[0].url)
    assert result.exit_code == 4
    lines = [line for line in result.stdout.splitlines() if "Land" in line]
    assert all(part in lines[0] for part in ("The capital of Land is", "Altstadt", "Neustadt", "wrong"))
    assert "right" in lines[1]
    told = run("live", "add", "p", "--url", servers[0].url, "--json")
    assert told.exit_code == 4
    error = json.loads(told.stdout)["error"]
    assert error["details"] == SILENT["error"]["details"]
    assert error["code"] == "self_test_failed"


def test_a_conflict_is_shown_and_has_an_exit_code(run: Run, servers: list[Prepared]) -> None:
    first, second = servers
    second.status, second.body = 409, CONFLICT
    result = run("live", "add", "p", "--url", first.url, "--url", second.url)
    assert result.exit_code == 3
    assert "refuse: p moves 'a' of q at layer 1 by 101%" in result.stderr
    told = json.loads(run("live", "add", "p", "--url", first.url, "--url", second.url, "--json").stdout)
    assert told["changed_back"] == [first.url]


def test_conflicts_that_were_allowed_and_facts_that_were_not_said_are_shown(
    run: Run, servers: list[Prepared]
) -> None:
    test = CHANGED["self_test"] | {"answers": SILENT["error"]["details"]["answers"]}
    made = CHANGED | {"self_test": test, "conflicts": [{"level": "warn", "text": "p moves 'a'"}]}
    servers[0].body = made
    result = run("live", "add", "p", "--url", servers[0].url)
    assert result.exit_code == 0
    assert "warn: p moves 'a'" in result.stderr
    assert "Neustadt" in result.stdout
    assert "the Bach" not in result.stdout


def test_patches_and_their_facts_are_listed(run: Run, servers: list[Prepared]) -> None:
    said = [{"id": str(n), "prompt": f"Town {n} lies in", "answer": f"Land {n}"} for n in range(5)]
    loaded = {"name": "capitals", "facts": 5, "hash": "sha256:" + "a" * 64, "said": said}
    live = {"name": "rivers", "facts": 1, "hash": "sha256:" + "b" * 64, "said": said[:1]}
    stack = {"version": "sha256:1", "loaded": {"members": [loaded]}, "patches": [live]}
    servers[0].body = stack
    shown = run("live", "list", "--url", servers[0].url).stdout
    assert servers[0].asked[-1].path == "/moe_patch/stack?facts=true"
    for part in (
        "capitals",
        "rivers",
        "loaded",
        "Town 2 lies in Land 2",
        "and 2 more",
        "sha256:aaaaaaaaaaaa",
    ):
        assert part in shown
    assert "Town 3" not in shown
    assert "Town 3 lies in Land 3" in run("live", "list", "--all", "--url", servers[0].url).stdout


def test_a_server_of_this_user_is_found_with_its_token(
    run: Run, servers: list[Prepared], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moe_patch_serving.api.local import announce, local_token

    monkeypatch.delenv("MOE_PATCH_TOKEN")
    nobody = run("live", "rollback")
    assert nobody.exit_code == 2
    assert "no server of yours runs here: give --url" in nobody.stderr
    file = local_token()
    secret = file.read_text().split()[1]
    announce(servers[0].url, {"MOE_PATCH_TOKEN_FILE": str(file)})
    assert run("live", "rollback").exit_code == 0
    run("live", "rollback", "--url", f"{servers[0].url}/")
    assert bearers(servers[0]) == [f"Bearer {secret}"] * 2
    run("live", "rollback", "--url", servers[1].url)
    assert bearers(servers[1]) == [None]  # another server does not get it
    record = next((state / "servers").glob("*.json"))
    record.with_name("another.json").write_text(record.read_text().replace(servers[0].url, servers[1].url))
    several = run("live", "rollback")
    assert several.exit_code == 2
    assert f"{servers[0].url}" in several.stderr
    assert f"{servers[1].url}" in several.stderr


def test_a_missing_token_is_said(run: Run, servers: list[Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOE_PATCH_TOKEN")
    error = {"error": {"code": "unauthorized", "message": "expected a header"}}
    servers[0].status, servers[0].body = 401, error
    result = run("live", "list", "--url", servers[0].url)
    assert "no token was sent: give --token-file, or set MOE_PATCH_TOKEN" in result.stderr


def test_the_token_is_not_sent_where_a_server_points(run: Run, servers: list[Prepared]) -> None:
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
    run: Run, servers: list[Prepared], status: int, body: str, said: str
) -> None:
    servers[0].status, servers[0].body = status, body.encode()
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


def test_nobody_there(run: Run, servers: list[Prepared]) -> None:
    servers[0].server_close()
    result = run("live", "list", "--url", servers[0].url)
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr


def test_a_token_file_wins_over_the_environment(run: Run, servers: list[Prepared], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another-token-entirely\n")
    run("live", "rollback", "--url", servers[0].url, "--token-file", tmp_path / "token")
    assert bearers(servers[0]) == ["Bearer another-token-entirely"]


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


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_missing_vllm_is_said_before_torch_is_imported() -> None:
    code = (
        "import sys\nfrom moe_patch.cli import main\n"
        "try:\n    main(['serve'], standalone_mode=True)\n"
        "except SystemExit as end:\n    assert end.code == 1\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "vLLM is not installed" in run.stderr
