"""Patches as repositories on the Hugging Face Hub: `hf://org/name@revision`.

A repository holds the patch, its signature if it has one, and a model card. What is pulled is a stranger's
file and is checked like one. A revision is a branch, a tag or a commit; a pull settles on the commit that it
means, and says so beside the file. Nothing else in this library needs the network, and a commit that was
pulled before needs none either.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCardData,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from pydantic import ValidationError

from moe_patch.errors import ConfigError, HubError, PatchTooLarge
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.io.files import replacing_file, write_text
from moe_patch.patch import HeaderLimits, Patch, load
from moe_patch.patch.schema import Sha256
from moe_patch.patch.signature import signature_path

SCHEME = "hf://"
FILE = "patch.safetensors"
ORIGIN_SUFFIX = ".origin.json"

_REFERENCE = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?P<file>(/[\w-][\w.-]*)+\.safetensors)?(@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HttpError: type[Exception] = HfHubHTTPError.__bases__[0]  # of the library that the Hub's client is built on


@dataclass(frozen=True, slots=True)
class HubReference:
    """A patch on the Hub: its repository, its file there, and a branch, tag or commit (None is `main`)."""

    repo: str
    file: str = FILE
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference that `hf://org/name[/file.safetensors][@revision]` means; ConfigError for others."""
        match = _REFERENCE.fullmatch(text)
        if match is None or ".." in text:
            raise ConfigError(
                f"{text!r} is no patch on the Hub: expected hf://org/name[/file.safetensors][@revision]"
            )
        return cls(match["repo"], (match["file"] or f"/{FILE}")[1:], match["revision"])

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which can never mean anything else."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        file = "" if self.file == FILE else f"/{self.file}"
        return f"{SCHEME}{self.repo}{file}" + (f"@{self.revision}" if self.revision else "")


class Origin(ClosedSchema):
    """Where a pulled file came from, as NAME.origin.json beside it says."""

    format: Literal[1] = 1
    asked: str  # the reference as it was given
    pinned: str  # the same with the commit that it meant
    hash: Sha256


def pull_patch(reference: str, out: Path | None = None, *, limits: HeaderLimits | None = None) -> Path:
    """Fetch a patch from the Hub at $HF_ENDPOINT and check all of it, as `load` does.

    Args:
        reference: `hf://org/name[/file.safetensors][@revision]`.
        out: where to put the patch, with its signature and its origin beside; None leaves it in the Hub's
            cache, in a folder named by its commit.

    Returns:
        the path of the patch.

    Raises:
        ConfigError: the reference is none.
        HubError: there is no such repository, revision or file, or the Hub cannot be reached.
        PatchError: what was fetched is no sound patch. PatchTooLarge is raised before it is fetched.
        OutputError: `out` cannot be written.
    """
    wanted = HubReference.parse(reference)
    path = _cached(wanted) if wanted.pinned else None
    path = path or _fetch(wanted, HfApi(), limits or HeaderLimits())
    patch = load(path, limits=limits)
    if out is None:
        return path
    pinned = replace(wanted, revision=path.parents[len(Path(wanted.file).parts) - 1].name)
    _put(path, out)
    origin = Origin(asked=reference, pinned=str(pinned), hash=patch.hash)
    write_text(origin_path(out), strict_json.canonical_json(origin.model_dump()) + "\n")
    return out


def push_patch(
    path: Path,
    reference: str,
    *,
    base_model: str | None = None,
    private: bool = True,
) -> HubReference:
    """Publish a patch in one commit, with its signature if one lies beside it, and a model card.

    Args:
        reference: where to; the repository and the branch are made if need be.
        base_model: what the Hub calls the base, for the card.
        private: whether a new repository is visible to its owners only.

    Returns:
        the reference with the commit.

    Raises PatchError where the patch is not sound, ConfigError where the reference is none or names a
    commit, HubError where the Hub cannot be reached or refuses.
    """
    wanted, patch = HubReference.parse(reference), load(path)
    if wanted.pinned:
        raise ConfigError(f"{reference} names a commit, to which nothing can be added: name a branch")
    api, branch = HfApi(), wanted.revision or "main"
    with _explained(wanted):
        api.create_repo(wanted.repo, private=private, exist_ok=True)
        if branch != "main":
            api.create_branch(wanted.repo, branch=branch, exist_ok=True)
        card = model_card(patch, wanted, base_model).encode()
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(wanted.file, str(path)),
            CommitOperationAdd("README.md", card),
        ]
        signature, published = signature_path(path), signature_path(Path(wanted.file)).as_posix()
        if signature.is_file():
            operations.append(CommitOperationAdd(published, str(signature)))
        elif api.file_exists(wanted.repo, published, revision=branch):
            operations.append(CommitOperationDelete(published))  # it is of the patch that was there before
        title = f"{len(patch.facts)} facts, {patch.hash}"
        commit = api.create_commit(wanted.repo, operations, commit_message=title, revision=branch)
    return replace(wanted, revision=commit.oid)


def model_card(patch: Patch, reference: HubReference, base_model: str | None = None) -> str:
    """The README of a patch's repository: how many facts, for which base, by which method, and its hash."""
    data = ModelCardData(
        base_model=base_model,
        library_name="moe-patch",
        tags=["moe-patch", "knowledge-editing", patch.kind],
    )
    base = patch.base
    layers = ", ".join(map(str, sorted(base.experts)))
    rows = {
        "facts": str(len(patch.facts)),
        "base": f"{base_model or base.model_type}, config {base.config}",
        "layers": layers,
        "method": f"{patch.method} ({patch.kind})",
        "hash": patch.hash,
        "built": patch.created,
    }
    table = "\n".join(f"| {name} | `{_plain(value)}` |" for name, value in rows.items())
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {reference.repo.partition('/')[2]}\n\n"
        "A patch that changes what a mixture-of-experts language model says about a set of facts.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        "```\n"
        f"moe-patch pull {replace(reference, revision=None)} --out patch.safetensors\n"
        "moe-patch inspect patch.safetensors\n"
        "```\n"
    )


def origin_path(path: Path) -> Path:
    """Where the origin of a pulled patch is written down."""
    return path.with_name(path.name + ORIGIN_SUFFIX)


def read_origin(path: Path) -> Origin:
    """Where the patch at `path` was pulled from; HubError where nothing says so."""
    file = origin_path(path)
    try:
        return Origin.model_validate(strict_json.parse_json(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise HubError(f"{file}: {strict_json.first_complaint(error)}") from error
    except (OSError, ValueError) as error:
        raise HubError(f"{file} cannot be read: {error}") from error


def _cached(pinned: HubReference) -> Path | None:
    """The file of a commit that was pulled before."""
    found = try_to_load_from_cache(pinned.repo, pinned.file, revision=pinned.revision)
    return Path(found) if isinstance(found, str) else None


def _fetch(wanted: HubReference, api: HfApi, limits: HeaderLimits) -> Path:
    """Download the patch, and its signature if there is one, into the Hub's cache."""
    with _explained(wanted):
        info = api.model_info(wanted.repo, revision=wanted.revision, files_metadata=True)
        sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
        if wanted.file not in sizes:
            held = ", ".join(sorted(sizes)) or "nothing"
            raise HubError(f"{wanted}: the repository has no {wanted.file}; it holds {held}")
        if (sizes[wanted.file] or 0) > limits.file_bytes:
            raise PatchTooLarge(
                f"{wanted} is {sizes[wanted.file]} bytes long; the limit is {limits.file_bytes}"
            )
        signature = signature_path(Path(wanted.file)).as_posix()
        for name in (signature, wanted.file):  # the patch last: where it is, all of it is
            if name in sizes:
                path = api.hf_hub_download(wanted.repo, name, revision=info.sha)
    return Path(path)


def _put(path: Path, out: Path) -> None:
    """Copy a pulled patch, with its signature or without any."""
    signature_path(out).unlink(missing_ok=True)
    pairs = [(path, out), (signature_path(path), signature_path(out))]
    for source, target in pairs:
        if source.is_file():
            with replacing_file(target) as temporary:
                shutil.copyfile(source, temporary)


@contextmanager
def _explained(reference: HubReference) -> Iterator[None]:
    """Turn what the Hub's client raises into one HubError."""
    try:
        yield
    except (HfHubHTTPError, HFValidationError, _HttpError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise HubError(f"{reference}: {reason}") from error


def _plain(text: str) -> str:
    """Text from a patch as one cell of a table: a stranger's words must not become a page's markup."""
    return re.sub(r"[`|\s<>\[\]]+", " ", text)
