"""Making a folder that appears whole, by one rename, and that can be continued after any interruption.

It is made beside its final place, in a hidden folder whose name holds a digest of all inputs. The same work,
started again, finds there what is done already; other work has another name. A file under its final name is
complete. The config, without which programs do not take the folder for a model, is written last.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import JsonValue

from moe_patch.checkpoint.link import How, place_file
from moe_patch.errors import MoePatchError, OutputError
from moe_patch.io import strict_json
from moe_patch.io.files import refuse_existing, replacing_file, sync_to_disk

LAST = "config.json"  # without it, programs do not take a folder for a model


class Staging:
    """The folder beside `out` in which `out` is made; `identity` is all that its content depends on.

    Raises:
        OutputError: as for `refuse_existing`.
    """

    def __init__(self, out: Path, identity: JsonValue) -> None:
        digest = hashlib.sha256(strict_json.canonical_json(identity).encode()).hexdigest()[:16]
        refuse_existing(out)
        self.out = out
        place = out.absolute()  # a relative path may have no name, as "." has none
        self.folder = place.with_name(f".{place.name}.{digest}.making")

    def done(self, name: str) -> bool:
        """Whether the complete file is there, from this run or an earlier one."""
        return (self.folder / name).exists()

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """Yield a path to write the file to; it gets its final name when it is complete and on disk."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(self.folder / name) as temporary:
            yield temporary

    def bring(self, source: Path, name: str, how: How) -> None:
        """Put `source` into the folder as `name`, unless it is there already."""
        if self.done(name):
            return
        if how == "hard":  # is one step anyway, and a shared file may not be writable to us
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            place_file(source, self.folder / name, how)
            return
        with self.making(name) as temporary:
            place_file(source, temporary, how)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the folder, new or from an interrupted run; without an exception it becomes `out` in the end.

        After Ctrl-C, a full disk or a crash the folder stays for the next attempt. After any other expected
        error it is removed, because the next attempt would fail in the same way.

        Raises:
            OutputError: `out` exists, another process is making it, or the system refuses to write.
        """
        refuse_existing(self.out)
        try:
            with _alone(self.out):
                self._discard_others()
                self.folder.mkdir(exist_ok=True)
                for leftover in self.folder.rglob(".*.tmp"):
                    leftover.unlink()
                with self._discarded_on_refusal():
                    yield
                refuse_existing(self.out)
                self.folder.replace(self.out)
                sync_to_disk(self.out.parent)
        except OSError as error:
            raise OutputError(f"cannot write {self.out}: {error.strerror or error}") from error

    @contextmanager
    def _discarded_on_refusal(self) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except MoePatchError:
            shutil.rmtree(self.folder)
            raise

    def _discard_others(self) -> None:
        """Remove what interrupted runs with other content have left for the same place."""
        pattern = re.compile(rf"\.{re.escape(self.out.absolute().name)}\.[0-9a-f]{{16}}\.making")
        for other in self.folder.parent.iterdir():
            if other != self.folder and pattern.fullmatch(other.name):
                shutil.rmtree(other)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lock `out` for this process; the system releases the lock if the process dies."""
    place = out.absolute()
    path = place.with_name(f".{place.name}.lock")
    try:
        with FileLock(path, timeout=0):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    except Timeout:
        raise OutputError(f"another process is making {out}: wait until it is done") from None
