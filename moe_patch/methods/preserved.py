"""The text that a build preserves: what is given, or what the base writes itself."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from pydantic import JsonValue

from moe_patch.base.model import Base
from moe_patch.base.statistics import DEFAULT_LENGTH, collect_moments
from moe_patch.data.mixture import read_corpus
from moe_patch.elicit.own_text import MOST_TOKENS, own_text
from moe_patch.progress import Progress
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import DEFAULT_MIN_TOKENS

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Preserved:
    """Preserved text, and what it does in the edit layers."""

    moments: dict[int, Moments] = field(default_factory=dict)  # by edit layer; empty without text
    texts: tuple[str, ...] = ()  # as people write them, without a chat template
    corpus_hash: str | None = None
    record: JsonValue = None  # what a patch says of the text; None without text


def preserve(
    base: Base,
    layers: Collection[int],
    corpus: Sequence[str] | None,
    tokens: int,
    progress: Progress | None = None,
    *,
    least: int = DEFAULT_MIN_TOKENS,
    length: int = DEFAULT_LENGTH,
) -> Preserved:
    """The preserved text with the moments of the edit layers' keys.

    Args:
        base: the model, without patches.
        layers: the edit layers.
        corpus: sources of text, as `read_corpus` takes them; None for the base's own text.
        tokens: most tokens to use.
        progress: called with the stages "own text" and "statistics".
        least: tokens of its own text with which the base should reach every expert.
        length: longer texts of a corpus are cut into pieces of this many tokens; the base writes short ones.

    Raises:
        ConfigError: a package is missing that a source needs.
        StatisticsError: the text cannot be read, or the base writes none of its own.
        NumericalError: a moment or a logit is not finite.
    """
    if corpus is None:
        return _own(base, layers, tokens, least, progress)
    read = read_corpus(corpus, base.reader, tokens)
    tell = None if progress is None else partial(progress, "statistics")
    moments = collect_moments(base, read, layers, max_tokens=tokens, length=length, progress=tell)
    return Preserved(moments, read.texts, read.hash, {"source": "corpus"})


def _own(
    base: Base, layers: Collection[int], tokens: int, least: int, progress: Progress | None
) -> Preserved:
    logger.info("no text to preserve is given: the base writes its own")
    most = min(tokens, MOST_TOKENS)
    tell = None if progress is None else partial(progress, "own text")
    found = own_text(base, layers, most=most, least=least, progress=tell)
    if not found.growth.settled:
        logger.warning(
            "the base's own text ends at %d tokens, and the directions that it uses still turn, so some of "
            "them are not protected: raise corpus_tokens, or give text with --corpus",
            found.growth.tokens,
        )
    record: JsonValue = {"source": "own", **asdict(found.growth)}
    return Preserved(found.moments, found.prose, found.corpus.hash, record)
