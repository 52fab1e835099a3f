"""A stand-in for the Hub: the few endpoints that its client calls, over HTTP on this machine.

Repositories are in memory. Every commit keeps all files of its branch, and is named by a hash of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tests.stand_in import StandIn, StandInHandler

Files = dict[str, bytes]


@dataclass
class Repository:
    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        digest = hashlib.sha1(repr((branch, len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[digest] = files
        self.branches[branch] = digest
        return digest

    def settle(self, revision: str) -> str | None:
        """The commit that a branch or a commit means."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class Hub(StandIn):
    """The server, with its repositories and the requests that it has seen."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.repositories: dict[str, Repository] = {}
        self.seen: list[str] = []
        self.tokens: list[str | None] = []  # with which files were asked for
        self.redirects: dict[str, str] = {}  # by path in a repository
        self.understated: set[str] = set()  # paths whose size is declared as one byte

    def put(self, name: str, files: Files, branch: str = "main") -> str:
        """Commit files as somebody else would."""
        return self.repositories.setdefault(name, Repository(private=False)).commit(branch, files)


class _Handler(StandInHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.seen.append(f"{self.command} {path}")
        body = self.body()
        for wanted, pattern, answer in _ROUTES:
            if (match := re.fullmatch(pattern, path)) and self.command in wanted:
                answer(self, body, **match.groupdict())
                return
        self.reply(404, {"error": f"no such endpoint: {self.command} {path}"})

    def _missing(self, code: str) -> None:
        self.reply(404, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def _find(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.server.repositories.get(name)
        commit = repository.settle(revision) if repository else None
        if repository is None or commit is None:
            self._missing("RevisionNotFound" if repository else "RepoNotFound")
            return None
        return repository, commit

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        known = name in self.server.repositories
        if not known:
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            repository = self.server.repositories[name] = Repository(private)
            repository.commit("main", {})
        self.reply(409 if known else 200, {"url": f"{self.server.url}/{name}"})

    def branch(self, body: bytes, name: str, revision: str) -> None:
        repository = self.server.repositories[name]
        known = revision in repository.branches
        if not known:
            repository.branches[revision] = repository.branches["main"]
        self.reply(409 if known else 200, {})

    def validate(self, body: bytes) -> None:
        ok = json.loads(body)["content"].startswith("---\n")
        self.reply(200 if ok else 400, {"errors": [] if ok else [{"message": "no YAML"}], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
        self.reply(200, {"files": modes})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        repository, commit = found
        files = dict(repository.commits[commit])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        digest = repository.commit(revision, files)
        self.reply(200, {"commitUrl": f"{self.server.url}/{name}/commit/{digest}", "commitOid": digest})

    def info(self, body: bytes, name: str, revision: str | None = None) -> None:
        found = self._find(name, revision or "main")
        if found is None:
            return
        repository, commit = found
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = [
            {"rfilename": path} | ({"size": self._size(path, raw)} if blobs else {})
            for path, raw in repository.commits[commit].items()
        ]
        self.reply(200, {"id": name, "sha": commit, "siblings": siblings, "private": repository.private})

    def _size(self, path: str, raw: bytes) -> int:
        return 1 if path in self.server.understated else len(raw)

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        repository, commit = found
        if path not in repository.commits[commit]:
            self._missing("EntryNotFound")
            return
        self.server.tokens.append(self.headers.get("Authorization"))
        if path in self.server.redirects:
            self.reply(
                302, b"", {"Location": self.server.redirects[path], "X-Repo-Commit": commit, "ETag": '"x"'}
            )
            return
        raw = repository.commits[commit][path]
        etag = f'"{hashlib.sha256(raw).hexdigest()}"'
        self.reply(200, raw, {"X-Repo-Commit": commit, "ETag": etag})


_NAME = r"(?P<name>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("POST", rf"/api/models/{_NAME}/branch/(?P<revision>.+)", _Handler.branch),
    ("POST", rf"/api/models/{_NAME}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"/api/models/{_NAME}/commit/(?P<revision>.+)", _Handler.commit),
    ("GET", rf"/api/models/{_NAME}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", rf"/api/models/{_NAME}", _Handler.info),
    ("GET HEAD", rf"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
