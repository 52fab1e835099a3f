"""Patches as repositories on the Hugging Face Hub: `hf://org/name@revision`.

A repository holds the patch, its signature if it has one, and a model card. A pulled file comes from a
stranger and is checked in full. A revision is a branch, a tag or a commit. A pull resolves it to a commit and
records that commit beside the file. No other part of this library needs the network. A commit that was pulled
before needs no network either.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils.tqdm import tqdm
from pydantic import ValidationError

from moe_patch.errors import ConfigError, HubError, PatchTooLarge
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.io.files import replacing_file, write_text
from moe_patch.io.reading import read_file, read_text
from moe_patch.io.wording import counted
from moe_patch.patch import HeaderLimits, Patch, load, save
from moe_patch.patch.base_record import Sha256
from moe_patch.patch.signature import MOST_BYTES, signature_path
from moe_patch.share.card import is_untouched_card, model_card
from moe_patch.share.eval_report import read_eval_report

logger = logging.getLogger(__name__)

SCHEME = "hf://"
FILE = "patch.safetensors"
README = "README.md"
ORIGIN_SUFFIX = ".origin.json"

_MAX_ORIGIN = 4096  # bytes
_MAX_README = 2**20  # bytes; a longer one is no card of ours

_REFERENCE = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?P<file>(/[\w-][\w.-]*)+\.safetensors)?(@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HttpError: type[Exception] = HfHubHTTPError.__bases__[0]  # from the HTTP library of the Hub's client


@dataclass(frozen=True, slots=True)
class HubReference:
    """A patch on the Hub."""

    repo: str  # org/name
    file: str = FILE  # path in the repository
    revision: str | None = None  # a branch, tag or commit; None is `main`

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `hf://org/name[/file.safetensors][@revision]`.

        Raises:
            ConfigError: the text has another form.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None or ".." in text:
            raise ConfigError(
                f"{text!r} does not name a patch on the Hub: expected hf://org/name[/file.safetensors][@revision]"
            )
        return cls(match["repo"], (match["file"] or f"/{FILE}")[1:], match["revision"])

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit: branches and tags can move."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        file = "" if self.file == FILE else f"/{self.file}"
        return f"{SCHEME}{self.repo}{file}" + (f"@{self.revision}" if self.revision else "")


class Origin(ClosedSchema):
    """The source of a pulled file, as recorded in NAME.origin.json beside it."""

    format: Literal[1] = 1
    asked: str  # the reference as the user gave it
    pinned: str  # the same reference with its commit
    hash: Sha256


def pull_patch(reference: str, out: Path | None = None, *, limits: HeaderLimits | None = None) -> Path:
    """Fetch a patch from the Hub at $HF_ENDPOINT and check all of it, as `load` does.

    Args:
        reference: `hf://org/name[/file.safetensors][@revision]`.
        out: where to write the patch; its signature and its origin go beside it. None leaves the patch in
            the Hub's cache, in a folder named by its commit.

    Returns:
        The path of the patch.

    Raises:
        ConfigError: the reference is malformed.
        HubError: there is no such repository, revision or file, or the Hub cannot be reached.
        PatchTooLarge: a file exceeds the limits; it is not fetched, or not to its end.
        PatchError: the fetched file is not a valid patch.
        OutputError: `out` cannot be written.
    """
    wanted = HubReference.parse(reference)
    path = _cached(wanted) if wanted.pinned else None
    path = path or _fetch(wanted, HfApi(), limits or HeaderLimits())
    patch = load(path, limits=limits)
    if out is None:
        return path
    pinned = replace(wanted, revision=path.parents[len(Path(wanted.file).parts) - 1].name)
    _put(patch, path, out)
    origin = Origin(asked=reference, pinned=str(pinned), hash=patch.hash)
    write_text(origin_path(out), strict_json.canonical_json(origin.model_dump()) + "\n")
    return out


def push_patch(
    path: Path,
    reference: str,
    *,
    base_model: str | None = None,
    license_id: str | None = None,
    scores: Path | None = None,
    private: bool = True,
    force: bool = False,
) -> HubReference:
    """Publish a patch in one commit, with a model card, and with its signature if there is one beside it.

    A README that is there already and is no card as this function wrote it stays, and that is logged.

    Args:
        path: the patch.
        reference: the target; a missing repository or branch is created.
        base_model: the name of the base on the Hub, for the model card.
        license_id: as the Hub names licences, for the model card.
        scores: a file with what `moe-patch eval --json` printed of this patch, for the model card.
        private: whether only its owners can see a new repository.
        force: whether the model card replaces any README.

    Returns:
        The reference with the commit.

    Raises:
        PatchError: the patch is not valid.
        ConfigError: the reference is malformed or names a commit, a name has a form that the Hub does not
            know, or the scores are none or another patch's.
        HubError: the Hub cannot be reached or refuses.
    """
    wanted, patch = HubReference.parse(reference), load(path)
    if wanted.pinned:
        raise ConfigError(f"{reference} names a commit, which cannot change: name a branch instead")
    report = None if scores is None else read_eval_report(scores, patch.hash)
    card = model_card(patch, str(wanted), base_model=base_model, license_id=license_id, report=report)
    api, branch = HfApi(), wanted.revision or "main"
    with _explained(wanted):
        api.create_repo(wanted.repo, private=private, exist_ok=True)
        if branch != "main":
            api.create_branch(wanted.repo, branch=branch, exist_ok=True)
        info = api.model_info(wanted.repo, revision=branch, files_metadata=True)
        operations = _upload(path, wanted, {one.rfilename for one in info.siblings or ()})
        if force or not _has_other_readme(wanted, info, api):
            operations.append(CommitOperationAdd(README, card.encode()))
        else:
            logger.warning(
                "%s: its %s was written or changed by hand and stays, without a card; --force replaces it",
                wanted,
                README,
            )
        title = f"{counted(len(patch.facts), 'fact')}, {patch.hash}"
        commit = api.create_commit(
            wanted.repo, operations, commit_message=title, revision=branch, parent_commit=info.sha
        )
    return replace(wanted, revision=commit.oid)


def _upload(
    path: Path, wanted: HubReference, present: set[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """The changes of a commit that puts a patch and its signature in the place of what is present."""
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(wanted.file, str(path))
    ]
    signature, published = signature_path(path), signature_path(Path(wanted.file)).as_posix()
    if signature.is_file():
        operations.append(CommitOperationAdd(published, str(signature)))
    elif published in present:
        operations.append(CommitOperationDelete(published))  # it signs the previous patch
    return operations


def _has_other_readme(wanted: HubReference, info: ModelInfo, api: HfApi) -> bool:
    """Whether a repository has a README that is more than a card as `push_patch` wrote it."""
    size = {one.rfilename: one.size or 0 for one in info.siblings or ()}.get(README)
    if size is None or size > _MAX_README:
        return size is not None
    bounded = _bounded_progress(f"{wanted}: {README}", _MAX_README)
    path = Path(api.hf_hub_download(wanted.repo, README, revision=info.sha, tqdm_class=bounded))
    text = read_file(path, _MAX_README).decode(errors="replace")
    return bool(text.strip()) and not is_untouched_card(text)


def origin_path(path: Path) -> Path:
    """The path of the file that records the origin of a pulled patch."""
    return path.with_name(path.name + ORIGIN_SUFFIX)


def read_origin(path: Path) -> Origin:
    """Read where the patch at `path` was pulled from.

    Raises:
        HubError: the origin file is missing or malformed.
    """
    file = origin_path(path)
    try:
        return Origin.model_validate(strict_json.parse_json(read_text(file, _MAX_ORIGIN)))
    except ValidationError as error:
        raise HubError(f"{file}: {strict_json.first_complaint(error)}") from error
    except (OSError, ValueError) as error:
        raise HubError(f"{file} cannot be read: {error}") from error


def _cached(pinned: HubReference) -> Path | None:
    """The cached file of a commit; None if it was not pulled before."""
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
        signature = signature_path(Path(wanted.file)).as_posix()
        most = {signature: MOST_BYTES, wanted.file: limits.file_bytes}
        for name, limit in most.items():  # the patch last: if it is there, so is its signature
            if (sizes.get(name) or 0) > limit:
                raise PatchTooLarge(f"{wanted}: {name} is {sizes[name]} bytes long; the limit is {limit}")
            if name in sizes:
                bounded = _bounded_progress(f"{wanted}: {name}", limit)
                path = api.hf_hub_download(wanted.repo, name, revision=info.sha, tqdm_class=bounded)
    return Path(path)


def _bounded_progress(what: str, limit: int) -> type[tqdm]:
    """A progress bar that ends a download after `limit` bytes, whatever size the server has declared.

    The client of the Hub calls its progress bar for every piece that it receives, before it is written.
    """

    class Bounded(tqdm):
        received = 0

        def update(self, n: float | None = 1) -> None:
            self.received += int(n or 0)
            if self.received > limit:
                raise PatchTooLarge(f"{what} is longer than {limit} bytes, the limit, and than it declares")
            super().update(n)

    return Bounded


def _put(patch: Patch, path: Path, out: Path) -> None:
    """Write a pulled patch, as it was checked, to `out`, and its signature if it has one beside `path`."""
    signature_path(out).unlink(missing_ok=True)
    save(patch, out)
    with suppress(FileNotFoundError):
        raw = read_file(signature_path(path), MOST_BYTES)
        with replacing_file(signature_path(out)) as temporary:
            temporary.write_bytes(raw)


@contextmanager
def _explained(reference: HubReference) -> Iterator[None]:
    """Turn the errors of the Hub's client into a HubError."""
    try:
        yield
    except (HfHubHTTPError, HFValidationError, _HttpError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise HubError(f"{reference}: {reason}") from error
