"""The lock file on disk: read it, change it in one step, and undo changes.

Before revision r is replaced, it is copied to `NAME.history/r.toml`. After a crash between the two steps the
lock is still at revision r, and the next change writes the copy again. So the lock is always one complete
revision, and the revision before it is always there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from moe_patch.errors import OutputError, StackError
from moe_patch.io.files import write_text
from moe_patch.io.reading import read_text
from moe_patch.stack.lockfile import Lock, lock_text, parse_lock

DEFAULT_NAME = "moe-patch.stack"

_MAX_BYTES = 4 * 2**20


def create_lock(path: Path, lock: Lock | None = None) -> Lock:
    """Create a stack at `path`, empty unless a lock is given.

    Raises:
        StackError: the file exists already, or its folder does not.
        OutputError: the folder cannot be written to.
    """
    lock = lock or Lock()
    with _alone(path):
        if path.exists():
            raise StackError(f"{path} exists already: remove it first, or name another file")
        write_text(path, lock_text(lock))
    return lock


def read_lock(path: Path) -> Lock:
    """Read the stack at `path`.

    Raises:
        StackError: there is no stack, or the file is not a valid one.
    """
    try:
        return parse_lock(read_text(path, _MAX_BYTES))
    except FileNotFoundError as error:
        raise StackError(f"there is no stack {path}: make one with `moe-patch stack init`") from error
    except OSError as error:
        raise StackError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StackError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from error
    except StackError as error:
        raise StackError(f"{path}: {error}") from error


def change_lock(path: Path, change: Callable[[Lock], Lock]) -> Lock:
    """Replace the stack at `path` by the result of `change`, in one step, and keep the old revision.

    If `change` raises, nothing is written. Processes that change one stack wait for each other.

    Raises:
        StackError: there is no valid stack.
        OutputError: the folder cannot be written to.
    """
    with _alone(path):
        before = read_lock(path)
        changed = change(before)
        after = changed.model_copy(update={"revision": before.revision + 1})
        _keep_revision(path, before)
        write_text(path, lock_text(after))
    return after


def undo_lock(path: Path) -> Lock:
    """Go back by one revision.

    Raises:
        StackError: the stack is at its first revision.
        OutputError: the folder cannot be written to.
    """
    with _alone(path):
        present = read_lock(path)
        before = previous_lock(path, present)
        _keep_revision(path, present)
        write_text(path, lock_text(before))
    return before


def previous_lock(path: Path, present: Lock) -> Lock:
    """The revision before `present`.

    Raises:
        StackError: `present` is the first revision.
    """
    if not present.revision:
        raise StackError(f"{path} is at its first revision: there is nothing to undo")
    return read_lock(_history(path, present.revision - 1))


def _keep_revision(path: Path, lock: Lock) -> None:
    kept = _history(path, lock.revision)
    try:
        kept.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {kept.parent}: {error.strerror}") from error
    write_text(kept, lock_text(lock))


def _history(path: Path, revision: int) -> Path:
    return path.with_name(f"{path.name}.history") / f"{revision}.toml"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock while a stack changes. The system releases it if the process dies."""
    try:
        if not path.parent.is_dir():
            raise StackError(f"there is no folder {path.parent}")
        with FileLock(path.with_name(f".{path.name}.lock")):
            yield
    except OSError as error:
        raise OutputError(f"cannot change {path}: {error.strerror or error}") from error
