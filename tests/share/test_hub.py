"""Patches pushed to and pulled from a Hub that runs on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from huggingface_hub import ModelCard

from moe_patch.cli import main
from moe_patch.errors import ConfigError, HashMismatch, HubError, PatchTooLarge, TruncatedPatch
from moe_patch.patch import HeaderLimits, Patch, load, save
from moe_patch.patch.signature import check_signature, sign_patch, signature_path
from moe_patch.share.hub import HubReference, pull_patch, push_patch, read_origin
from tests.patch.patches import delta_patch
from tests.share.hub_server import Hub
from tests.share.reports import eval_json
from tests.stand_in import answering

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
NAME = "org/capitals"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of its own for each test, with an empty cache; the only network that tests may use."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with answering(Hub()) as server:
        point_to(server.url, monkeypatch)
        yield server


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What $HF_ENDPOINT does, which is read on import."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def patch() -> Patch:
    return delta_patch()


@pytest.fixture
def path(patch: Patch, tmp_path: Path) -> Path:
    save(patch, tmp_path / "p.safetensors")
    return tmp_path / "p.safetensors"


def test_pushed_and_pulled_a_patch_is_the_same_and_knows_its_commit(
    hub: Hub, path: Path, patch: Patch, tmp_path: Path
) -> None:
    sign_patch(path, patch.hash, KEY)
    pushed = push_patch(path, f"hf://{NAME}")
    commit = hub.repositories[NAME].branches["main"]
    assert pushed == HubReference(NAME, revision=commit)
    assert hub.repositories[NAME].private
    assert set(hub.repositories[NAME].commits[commit]) == {
        "patch.safetensors",
        "patch.safetensors.sig",
        "README.md",
    }
    out = tmp_path / "pulled.safetensors"
    assert pull_patch(f"hf://{NAME}", out) == out
    assert out.read_bytes() == path.read_bytes()
    assert check_signature(out, patch.hash, [KEY.public_key()])
    origin = read_origin(out)
    assert (origin.asked, origin.pinned) == (f"hf://{NAME}", f"hf://{NAME}@{commit}")
    assert origin.hash == patch.hash


def test_without_out_it_stays_in_the_cache_under_its_commit(hub: Hub, path: Path, patch: Patch) -> None:
    commit = hub.put(NAME, {"patch.safetensors": path.read_bytes()})
    found = pull_patch(f"hf://{NAME}@main")
    assert found.parent.name == commit
    assert load(found).hash == patch.hash


def test_a_commit_that_was_pulled_before_needs_no_network(hub: Hub, path: Path) -> None:
    commit = hub.put(NAME, {"patch.safetensors": path.read_bytes()})
    first = pull_patch(f"hf://{NAME}@{commit}")
    hub.seen.clear()
    assert pull_patch(f"hf://{NAME}@{commit}") == first
    assert not hub.seen


def test_a_branch_is_asked_for_each_time_and_other_revisions_stay(hub: Hub, tmp_path: Path) -> None:
    old, new, out = tmp_path / "old.safetensors", tmp_path / "new.safetensors", tmp_path / "out.safetensors"
    save(delta_patch(seed=1), old)
    save(delta_patch(seed=2), new)
    sign_patch(old, load(old).hash, KEY)
    first = push_patch(old, f"hf://{NAME}")
    pull_patch(f"hf://{NAME}", out)
    assert signature_path(out).exists()
    push_patch(new, f"hf://{NAME}")
    push_patch(new, f"hf://{NAME}@v2")
    for reference, patch in ((f"hf://{NAME}", new), (f"hf://{NAME}@v2", new), (str(first), old)):
        assert load(pull_patch(reference, out)).hash == load(patch).hash
        assert signature_path(out).exists() == (patch == old)  # none is left over from another revision


def test_several_patches_in_one_repository(hub: Hub, path: Path) -> None:
    hub.put(NAME, {"eu/rivers.safetensors": path.read_bytes(), "README.md": b""})
    found = pull_patch(f"hf://{NAME}/eu/rivers.safetensors")
    assert found.name == "rivers.safetensors"
    with pytest.raises(HubError, match=r"has no patch.safetensors; it holds README.md, eu/rivers"):
        pull_patch(f"hf://{NAME}")


def test_what_is_pulled_is_a_strangers_file(hub: Hub, path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    at = len(raw) - 200
    hub.put(NAME, {"patch.safetensors": raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]})
    out = tmp_path / "out.safetensors"
    with pytest.raises(HashMismatch):
        pull_patch(f"hf://{NAME}", out)
    assert not out.exists()


def test_what_is_too_large_is_not_even_fetched(hub: Hub, path: Path) -> None:
    hub.put(NAME, {"patch.safetensors": path.read_bytes()})
    with pytest.raises(PatchTooLarge, match="the limit is 100"):
        pull_patch(f"hf://{NAME}", limits=HeaderLimits(file_bytes=100))
    assert not any("resolve" in request for request in hub.seen)


def test_what_is_not_there_is_one_error(hub: Hub, path: Path) -> None:
    for reference in ("hf://org/none", f"hf://{NAME}@none"):
        hub.put(NAME, {"patch.safetensors": path.read_bytes()})
        with pytest.raises(HubError, match=reference):
            pull_patch(reference)


def test_offline_only_what_is_cached_can_be_had(
    hub: Hub, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.put(NAME, {"patch.safetensors": path.read_bytes()})
    pull_patch(f"hf://{NAME}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert pull_patch(f"hf://{NAME}@{commit}")
    with pytest.raises(HubError, match="offline"):
        pull_patch(f"hf://{NAME}")


@pytest.mark.usefixtures("hub")
def test_a_hub_that_does_not_answer_is_one_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to("http://127.0.0.1:9", monkeypatch)  # the discard service, which nothing runs any more
    with pytest.raises(HubError, match=NAME):
        pull_patch(f"hf://{NAME}")
    with pytest.raises(HubError, match=NAME):
        push_patch(path, f"hf://{NAME}")


@pytest.mark.parametrize(
    "text",
    [
        "capitals.safetensors",
        "hf://capitals",
        "hf://org/name@",
        "hf://org/name/../x.safetensors",
        "hf://org/name//etc/x.safetensors",
        "hf://org/name/x.bin",
        "hf://org/name@a..b",
        "https://org/name",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ConfigError, match="does not name a patch on the Hub"):
        HubReference.parse(text)


def test_references_are_written_as_they_are_read() -> None:
    for text in ("hf://o/n", "hf://o/n@v2", "hf://o/n/a/b.safetensors@" + "0" * 40):
        assert str(HubReference.parse(text)) == text


def test_nothing_is_pushed_to_a_commit_nor_of_a_damaged_file(hub: Hub, path: Path) -> None:
    with pytest.raises(ConfigError, match="name a branch"):
        push_patch(path, f"hf://{NAME}@{'0' * 40}")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TruncatedPatch):
        push_patch(path, f"hf://{NAME}")
    assert not hub.seen


def readme(hub: Hub, branch: str = "main") -> str:
    repository = hub.repositories[NAME]
    return repository.commits[repository.branches[branch]]["README.md"].decode()


def test_a_card_is_written_anew_with_each_push(hub: Hub, path: Path, tmp_path: Path) -> None:
    push_patch(path, f"hf://{NAME}", license_id="mit")
    assert ModelCard(readme(hub)).data.license == "mit"
    other = tmp_path / "other.safetensors"
    save(delta_patch(seed=2), other)
    push_patch(other, f"hf://{NAME}", license_id="apache-2.0")
    assert ModelCard(readme(hub)).data.license == "apache-2.0"
    assert load(other).hash in readme(hub)


@pytest.mark.parametrize("change", ["written", "changed", "long", "not UTF-8"])
def test_a_readme_that_somebody_wrote_stays_unless_forced(
    hub: Hub, path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    push_patch(path, f"hf://{NAME}")
    theirs = {
        "written": b"# Mine",
        "changed": readme(hub).replace("None was given", "Mine").encode(),
        "long": b"x" * 2**21,
        "not UTF-8": b"\xff",
    }[change]
    hub.put(NAME, {"README.md": theirs})
    push_patch(path, f"hf://{NAME}")
    commit = hub.repositories[NAME].commits[hub.repositories[NAME].branches["main"]]
    assert commit["README.md"] == theirs
    assert commit["patch.safetensors"] == path.read_bytes()
    assert "written or changed by hand and stays" in caplog.text
    push_patch(path, f"hf://{NAME}", force=True)
    assert "moe-patch pull" in readme(hub)


def test_an_empty_readme_is_nobodys(hub: Hub, path: Path) -> None:
    hub.put(NAME, {"README.md": b"\n"})
    push_patch(path, f"hf://{NAME}")
    assert "moe-patch pull" in readme(hub)


def test_nothing_is_pushed_with_names_or_scores_that_are_none(hub: Hub, path: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text("{}")
    wrong: list[dict[str, Any]] = [
        {"base_model": "./folder"},
        {"license_id": "my own"},
        {"scores": tmp_path / "scores.json"},
    ]
    for given in wrong:
        with pytest.raises(ConfigError):
            push_patch(path, f"hf://{NAME}", **given)
    assert not hub.seen


def test_the_commands(hub: Hub, path: Path, patch: Patch, tmp_path: Path) -> None:
    def run(*arguments: object) -> dict[str, str]:
        result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps(eval_json(patch.hash)))
    options = ("--base-model", "org/base", "--license", "mit", "--scores", scores, "--force")
    pushed = run("push", path, f"hf://{NAME}", "--public", *options)
    assert not hub.repositories[NAME].private
    card = ModelCard(readme(hub)).data
    assert (card.base_model, card.license) == ("org/base", "mit")
    assert card.eval_results is not None
    out = tmp_path / "out.safetensors"
    pulled = run("pull", pushed["pinned"], "--out", out)
    assert pulled == {
        "patch": str(out),
        "asked": pushed["pinned"],
        "pinned": pushed["pinned"],
        "hash": patch.hash,
    }
    failed = CliRunner().invoke(main, ["pull", "hf://org/none", "--out", str(out)])
    assert failed.exit_code == 1
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "reference",
    ["hf://org/../x", "hf://org/n/../../x.safetensors", "hf://org//etc/x.safetensors", "hf:///etc/x@main"],
)
def test_references_are_no_paths(hub: Hub, reference: str) -> None:
    with pytest.raises(ConfigError):
        pull_patch(reference)
    assert not hub.seen


def test_other_files_of_a_repository_are_neither_fetched_nor_obeyed(
    hub: Hub, path: Path, tmp_path: Path
) -> None:
    names = ("../../evil.safetensors", "/etc/evil.safetensors", "\x1b[2Jevil", "config.json", ".git/hooks/x")
    hub.put(NAME, {"patch.safetensors": path.read_bytes()} | dict.fromkeys(names, b"evil"))
    out = tmp_path / "out" / "p.safetensors"
    out.parent.mkdir()
    pull_patch(f"hf://{NAME}", out)
    assert {found.name for found in out.parent.iterdir()} == {"p.safetensors", "p.safetensors.origin.json"}
    assert not any("evil" in str(found) for found in tmp_path.rglob("*"))
    hub.put("org/none", dict.fromkeys(names, b"evil"))
    failed = CliRunner().invoke(main, ["pull", "hf://org/none", "--out", str(out), "--force"])
    assert failed.stderr.count("\n") == 1
    assert "\\u001b[2Jevil" in failed.stderr


@pytest.mark.parametrize("name", ["patch.safetensors", "patch.safetensors.sig"])
def test_a_file_that_is_longer_than_it_declares_is_not_fetched_to_its_end(
    hub: Hub, path: Path, tmp_path: Path, name: str
) -> None:
    files = {"patch.safetensors": path.read_bytes(), "patch.safetensors.sig": b"{}"}
    hub.put(NAME, files | {name: b"x" * 2_000_000})
    hub.understated.add(name)
    with pytest.raises(PatchTooLarge, match="is longer than"):
        pull_patch(f"hf://{NAME}", limits=HeaderLimits(file_bytes=1_000_000))
    assert not [found for found in tmp_path.rglob("*") if found.stat().st_size >= 2_000_000]


def test_a_file_elsewhere_is_no_file_of_this_machine(hub: Hub, path: Path, tmp_path: Path) -> None:
    hub.put(NAME, {"patch.safetensors": b""})
    hub.redirects["patch.safetensors"] = f"file://{path}"
    with pytest.raises(HubError, match=NAME):
        pull_patch(f"hf://{NAME}", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_host_that_a_repository_points_to_gets_no_token(
    hub: Hub, path: Path, patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with answering(Hub()) as other:
        commit = other.put(NAME, {"patch.safetensors": path.read_bytes()})
        hub.put(NAME, {"patch.safetensors": b""})
        there = other.url.replace("127.0.0.1", "localhost")
        hub.redirects["patch.safetensors"] = f"{there}/{NAME}/resolve/{commit}/patch.safetensors"
        assert load(pull_patch(f"hf://{NAME}")).hash == patch.hash
        assert set(hub.tokens) == {"Bearer hf_secret"}
        assert set(other.tokens) == {None}
