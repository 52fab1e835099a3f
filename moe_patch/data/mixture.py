"""Preserved text from several sources, mixed so that each has its weight in every part of the text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from moe_patch.data.corpus import Corpus
from moe_patch.data.corpus_source import CorpusSource
from moe_patch.data.reader import Reader
from moe_patch.errors import StatisticsError

logger = logging.getLogger(__name__)

_LENGTH = 512  # tokens of a sequence, which special tokens are counted in


def read_corpus(sources: Sequence[str], reader: Reader, most: int) -> Corpus:
    """The text of all sources.

    A single file is taken whole. Anything else is read until it has `most` tokens, text by text: the next
    text is always one of the source that has the fewest tokens for its weight, so that every beginning of the
    text has the sources in the shares of their weights, as nearly as whole texts allow.

    Args:
        sources: text forms of `CorpusSource`.
        reader: the model's, to count tokens.
        most: tokens after which reading ends.

    Raises:
        ConfigError: a source is not of any form, or a package is missing that it needs.
        StatisticsError: a source cannot be read or has no text.
        PromptError: a token has no row in the model's embedding.
    """
    parsed = [CorpusSource.parse(source) for source in sources]
    if len(parsed) == 1 and not parsed[0].in_hub and len(files := parsed[0].files()) == 1:
        return Corpus.read(files[0])

    def count(text: str) -> int:
        return sum(map(len, reader.sequences([text], _LENGTH)))

    name = ", ".join(source.name for source in parsed)
    texts = tuple(mix(parsed, count, most))
    if not texts:
        raise StatisticsError(f"the corpus {name} contains no text")
    return Corpus(name, texts)


def mix(sources: Sequence[CorpusSource], count: Callable[[str], int], most: int) -> Iterator[str]:
    """Texts of the sources in turn, by weight, until there are `most` tokens or no more texts.

    When a source ends, this is logged, and the others go on without it.

    Args:
        sources: where the texts are.
        count: gives the number of a text's tokens.
        most: tokens after which it ends; the last text may exceed it.

    Raises:
        ConfigError: a package is missing that a source needs.
        StatisticsError: a source cannot be read or has no text.
    """
    running = {number: source.texts() for number, source in enumerate(sources)}
    tokens = [0] * len(sources)
    while running and sum(tokens) < most:
        number = min(running, key=lambda number: (tokens[number] / sources[number].weight, number))
        text = next(running[number], None)
        if text is None:
            del running[number]
            if running:
                logger.warning(
                    "the corpus %s ends after %d tokens: from there on, the others are mixed without it",
                    sources[number].name,
                    tokens[number],
                )
            continue
        tokens[number] += count(text)
        yield text
