"""Where preserved text comes from: files, folders, patterns and data sets of the Hub, each with a weight.

    wiki.txt    notes.jsonl    pages.parquet    a file; of others than these three, each line is a text
    books/                                      all such files in a folder and below it, by name
    books/**/*.txt                              the files that match
    hf:owner/name:config:split:column           a data set of the Hub; what is left out at the end, or empty,
                                                is the default config, "train" and "text"

Behind any of these may stand a weight, as in `wiki.txt=3`. A path that itself ends in `=` and a number needs
a weight: `year=2024=1`.
"""

from __future__ import annotations

import glob
import hashlib
import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from moe_patch.data.hub_texts import HUB, HubText
from moe_patch.data.text_files import SUFFIXES, file_texts
from moe_patch.errors import ConfigError, StatisticsError


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """One source of text."""

    place: str
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> CorpusSource:
        """A source from its text form.

        Raises:
            ConfigError: the place is empty or names no data set, or the weight is not finite and above 0.
        """
        place, equals, number = text.rpartition("=")
        try:
            weight = float(number) if equals else None
        except ValueError:  # the = belongs to the path
            weight = None
        source = cls(text) if weight is None else cls(place, weight)
        if not source.place.strip():
            raise ConfigError(f"the corpus {text!r} names no file, folder or data set")
        if not (math.isfinite(source.weight) and source.weight > 0.0):
            raise ConfigError(
                f"the corpus {text!r} has the weight {number}: expected a finite number above 0"
            )
        if source.in_hub:
            HubText.parse(source.place)
        return source

    @property
    def in_hub(self) -> bool:
        """Whether it is a data set of the Hub."""
        return self.place.startswith(HUB)

    @property
    def name(self) -> str:
        """A short name for people."""
        return self.place if self.in_hub else Path(self.place).name or self.place

    def from_folder(self, folder: Path) -> str:
        """The text form of a source whose relative path starts at `folder`."""
        return self._text(self.place if self.in_hub else str(folder / self.place))

    def to_folder(self, folder: Path) -> str:
        """The text form with a path relative to `folder`."""
        return self._text(self.place if self.in_hub else os.path.relpath(self.place, folder))

    def by_content(self, sha256: Callable[[Path], str]) -> str:
        """The text form with a SHA-256 of the files' content for the place; that of a data set has its name.

        It is the same wherever the files lie, and another one when a file changes.

        Args:
            sha256: gives the SHA-256 of a file in hexadecimal; what it raises is raised.

        Raises:
            StatisticsError: there are no files.
        """
        if self.in_hub:
            return self.text
        digest = hashlib.sha256()
        for path in self.files():
            digest.update(bytes.fromhex(sha256(path)))
        return self._text(f"sha256:{digest.hexdigest()}")

    def files(self) -> list[Path]:
        """The files of a local source, in the order in which they are read.

        Raises:
            StatisticsError: there are none, or one is neither a file nor a folder.
        """
        path = Path(self.place)
        try:
            kind = path.stat().st_mode if "\0" not in self.place else None
        except OSError as error:
            if glob.has_magic(self.place):
                return self._matches()
            raise StatisticsError(f"cannot read the corpus {path}: {error.strerror}") from error
        if kind is None or not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise StatisticsError(f"cannot read the corpus {path}: it is neither a file nor a folder")
        if stat.S_ISREG(kind):
            return [path]
        if found := sorted(each for each in path.rglob("*") if _is_text_file(each, path)):
            return found
        kinds = ", ".join(sorted(SUFFIXES))
        raise StatisticsError(f"the corpus {path} is a folder without text: expected files such as {kinds}")

    def texts(self) -> Iterator[str]:
        """The texts, one after the other.

        Raises:
            ConfigError: a package is missing that the source needs.
            StatisticsError: a file or the data set cannot be read, or has no text.
        """
        if self.in_hub:
            yield from HubText.parse(self.place).texts()
            return
        for path in self.files():
            yield from file_texts(path)

    def _matches(self) -> list[Path]:
        names = glob.glob(self.place, recursive=True)  # noqa: PTH207 (takes absolute patterns too)
        found = sorted(path for path in map(Path, names) if path.is_file())
        if not found:
            raise StatisticsError(f"no file matches the corpus {self.place}")
        return found

    def _text(self, place: str) -> str:
        return CorpusSource(place, self.weight).text

    @property
    def text(self) -> str:
        """The text form, which `parse` reads back."""
        number = self.place.rpartition("=")[2] if "=" in self.place else ""
        return f"{self.place}={self.weight:g}" if self.weight != 1.0 or _is_number(number) else self.place


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_text_file(path: Path, folder: Path) -> bool:
    """Whether a file in a folder is one of text, and neither it nor a folder above it is hidden."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()
