"""A server and its clients, of one user on one machine."""

from __future__ import annotations

import json
import os
import stat
from argparse import Namespace
from pathlib import Path

import pytest

from moe_patch.errors import ConfigError
from moe_patch_serving.api import local
from moe_patch_serving.api.local import address_of, announce, local_servers, local_token
from moe_patch_serving.api.tokens import token_file


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOE_PATCH_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def test_the_token_is_made_once_and_nobody_else_can_read_it(state: Path) -> None:
    path = local_token()
    (token,) = token_file(path)
    assert (path, token.name) == (state / "token", "local")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert token_file(local_token()) == (token,)
    assert [entry.name for entry in state.iterdir()] == ["token"]
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read it: run `chmod 600"):
        local_token()


def test_a_running_server_is_found_and_one_that_is_gone_is_not(state: Path) -> None:
    assert local_servers() == []
    announce("http://127.0.0.1:8000", {"MOE_PATCH_TOKEN_FILE": "/a/token"})
    (server,) = local_servers()
    assert (server.url, server.process, server.token_file) == (
        "http://127.0.0.1:8000",
        os.getpid(),
        "/a/token",
    )
    record = state / "servers" / f"{os.getpid()}.json"
    told = json.loads(record.read_text())
    record.write_text(json.dumps(told | {"started": told["started"] - 60}))  # another process had the number
    assert local_servers() == []
    assert not record.exists()
    announce("http://127.0.0.1:8000", {"MOE_PATCH_TOKEN": "secret", "MOE_PATCH_TOKEN_FILE": "/a/token"})
    (server,) = local_servers()
    assert server.token_file is None
    (state / "servers" / "1.json").write_text("{")
    assert local_servers() == [server]


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ({"host": None, "port": 8000}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "port": 1, "ssl_certfile": None}, "http://127.0.0.1:1"),
        ({"host": "::1", "port": 8000}, "http://[::1]:8000"),
        ({"host": "gpu3", "port": 8000, "ssl_certfile": "c.pem"}, "https://gpu3:8000"),
        ({"host": None, "port": 8000, "uds": "/run/vllm.sock"}, None),
        ({}, None),
    ],
)
def test_where_clients_find_it(arguments: dict[str, object], url: str | None) -> None:
    assert address_of(Namespace(**arguments)) == url
    assert local.LOCAL == "local"
