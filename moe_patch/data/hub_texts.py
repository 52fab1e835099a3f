"""The texts of a data set of the Hub, read as far as they are needed, through the package `datasets`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import HfHubHTTPError

from moe_patch.data.text import composed
from moe_patch.data.text_files import INSTALL, text_column
from moe_patch.errors import ConfigError, StatisticsError

HUB = "hf:"

_HttpError: type[Exception] = HfHubHTTPError.__bases__[0]  # from the HTTP library of the Hub's client

_FORM = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)((?::[^:]*){0,3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubText:
    """A column of text of a data set."""

    name: str  # with its owner, as on the Hub
    config: str | None = None  # None for the default
    split: str = "train"
    column: str | None = None  # None for "text", or the only column of text

    @classmethod
    def parse(cls, place: str) -> HubText:
        """A data set from `hf:owner/name:config:split:column`, of which all but the name may be left out.

        Raises:
            ConfigError: it is not of this form.
        """
        found = _FORM.fullmatch(place)
        if found is None:
            raise ConfigError(
                f"{place!r} names no data set of the Hub: expected hf:owner/name, or "
                "hf:owner/name:config:split:column"
            )
        config, split, column = ([part or None for part in found[2].split(":")[1:]] + [None] * 3)[:3]
        return cls(found[1], config, split or "train", column)

    def texts(self) -> Iterator[str]:
        """The texts in their order. Rows are fetched while this runs, and rows without text are skipped.

        Raises:
            ConfigError: the package `datasets` is missing.
            StatisticsError: the data set cannot be fetched, or has no such split or column.
        """
        try:
            from datasets import load_dataset  # noqa: PLC0415 (an extra)
            from datasets.exceptions import DatasetsError  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(f"hf:{self.name}: data sets need the package datasets: {INSTALL}") from error
        try:
            rows = load_dataset(self.name, self.config, split=self.split, streaming=True)
            column: str | None = None
            for row in rows:
                column = column or self._column(row)
                text = row[column]
                if isinstance(text, str) and text.strip():
                    yield composed(text).strip()
        except (DatasetsError, _HttpError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise StatisticsError(f"cannot read the data set hf:{self.name}: {reason}") from error

    def _column(self, row: dict[str, Any]) -> str:
        return text_column(
            f"hf:{self.name}", [name for name, value in row.items() if isinstance(value, str)], self.column
        )
