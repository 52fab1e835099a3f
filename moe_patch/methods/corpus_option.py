"""The option `corpus`: sources of preserved text, as one string or a list of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from moe_patch.data.corpus_source import CorpusSource
from moe_patch.errors import ConfigError


def _sources(value: Any) -> Any:
    """One source, or several, as a tuple of texts that can be parsed."""
    if value is None:
        return None
    several = value if isinstance(value, list | tuple) else [value]
    if not several or not all(isinstance(one, str | Path) for one in several):
        raise ValueError("expected a source of text, or a list of sources")
    try:
        for one in several:
            CorpusSource.parse(str(one))
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return tuple(map(str, several))


CorpusOption = Annotated[tuple[str, ...] | None, BeforeValidator(_sources)]

CORPUS_HELP = (
    "Text to preserve: files (.txt, .jsonl, .parquet), folders, patterns, or hf:owner/name of the Hub, each "
    "with =WEIGHT if several are mixed; unset: the base writes its own."
)


def map_sources(value: Any, change: Callable[[CorpusSource], str]) -> Any:
    """The value of the option with each source changed; a value that has no sources stays as it is.

    Raises:
        ConfigError: a source is not of any form.
    """
    if isinstance(value, str | Path):
        return change(CorpusSource.parse(str(value)))
    if isinstance(value, list | tuple):
        return [map_sources(one, change) for one in value]
    return value
