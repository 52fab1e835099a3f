"""How a model reads text: the one place where text becomes token ids.

Texts are brought into one spelling, special tokens that a tokenizer puts behind a text are left out, since
more may follow, and what the model has no position or no row of its embedding for is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from moe_patch.data.chat import chat_frame, generation_prompt
from moe_patch.data.facts import as_continuation
from moe_patch.data.offsets import character_spans
from moe_patch.data.text import composed, is_encodable, phrase_text, prompt_text
from moe_patch.errors import PromptError

_QUOTED = 80  # characters
_STAND_IN = "Yes"  # an answer that shows where others would start


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as tokens, with the answer that follows it."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]  # for each token, the characters that it covers
    start: int  # character at which the prompt starts, or would without removed white space
    first: int  # index into ids of the answer's first token; len(ids) without an answer

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens before the answer."""
        return self.ids[: self.first]

    @property
    def answer(self) -> tuple[int, ...]:
        """The tokens of the answer."""
        return self.ids[self.first :]

    def last_token(self, start: int, end: int) -> int | None:
        """The last token before the answer with a part of the prompt's characters `start` to `end`.

        Several tokens may cover the same character, if each of them is some of its bytes.
        """
        return max(self.tokens(start, end), default=None)

    def tokens(self, start: int, end: int) -> tuple[int, ...]:
        """All tokens before the answer with a part of the prompt's characters `start` to `end`."""
        first, last = self.start + start, self.start + end
        return tuple(i for i in range(self.first) if self.spans[i][0] < last and self.spans[i][1] > first)


@dataclass(frozen=True, slots=True)
class Reader:
    """A tokenizer, with the limits of the model that it belongs to."""

    tokenizer: Any
    positions: int | None = None  # greatest length of a text in tokens; None if there is no limit
    rows: int | None = None  # of the embedding; None if any token may be read

    @classmethod
    def of(cls, source: Any) -> Reader:
        """A reader as it is; of a tokenizer alone, one without a model's limits."""
        return source if isinstance(source, Reader) else cls(source)

    def read_answer(self, prompt: str, answer: str, *, chat: bool, name: str = "") -> Reading:
        """A prompt with an answer to it. A token that is partly in the answer belongs to the answer.

        Args:
            prompt: white space at its end is not read.
            answer: likewise, and on both sides. Without a chat template, a space comes before it.
            chat: whether they are put into the tokenizer's chat template, each in its place.
            name: of the prompt, for errors; by default it is quoted.

        Raises:
            NoChatTemplate: `chat` is true, but the tokenizer has no chat template.
            PromptError: the tokenizer gives no offsets, the template changes a content, the text is too long
                for the model, or a token has no row in its embedding.
        """
        prompt, answer = prompt_text(prompt), phrase_text(answer)
        start, text, ending = 0, prompt, as_continuation(answer)
        if chat:
            frame, said, ending = chat_frame(self.tokenizer, prompt, answer)
            start = len(frame.before) - (len(prompt) - len(said))
            text = frame.before + said + frame.between
        ids, spans = self._with_spans(text + ending, chat=chat, name=name or quoted(prompt))
        first = next((i for i, (_, end) in enumerate(spans) if end > len(text)), len(ids))
        return Reading(ids, spans, start, first)

    def read_text(self, prompt: str, *, name: str = "") -> Reading:
        """A prompt without an answer and without a chat template.

        Raises:
            PromptError: as for `read_answer`.
        """
        prompt = prompt_text(prompt)
        ids, spans = self._with_spans(prompt, chat=False, name=name or quoted(prompt))
        return Reading(ids, spans, 0, len(ids))

    def read_prompt(self, prompt: str, *, chat: bool) -> tuple[int, ...]:
        """The tokens of a prompt up to the place of an answer.

        Raises:
            NoChatTemplate: as for `read_answer`.
            PromptError: as for `read_answer`; or the prompt has no tokens.
        """
        if chat:
            return self.read_answer(prompt, _STAND_IN, chat=True).prompt
        return self._tokens(prompt_text(prompt), chat=False, name=quoted(prompt))

    def read_question(self, prompt: str, *, chat: bool) -> tuple[int, ...]:
        """The tokens after which the model writes its own reply: with `chat`, the generation prompt.

        Raises:
            NoChatTemplate: as for `read_answer`.
            PromptError: as for `read_answer`; or the prompt has no tokens.
        """
        prompt = prompt_text(prompt)
        text = generation_prompt(self.tokenizer, prompt) if chat else prompt
        return self._tokens(text, chat=chat, name=quoted(prompt))

    def read_start(self, *, chat: bool) -> tuple[int, ...]:
        """The tokens after which a text starts, or with `chat` a user's message. There may be none.

        They are what the tokenizer puts before a text, or else the token that begins or ends one.

        Raises:
            NoChatTemplate: as for `read_answer`.
            PromptError: as for `read_answer`.
        """
        if chat:
            frame, _, _ = chat_frame(self.tokenizer, _STAND_IN, _STAND_IN)
            return self._encoded(frame.before, chat=True, name="the chat template's beginning")[0]
        ends = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        known = (end for end in ends if end is not None and (self.rows is None or end < self.rows))
        return self.before_text() or tuple(islice(known, 1))

    def read_end(self, *, chat: bool) -> tuple[int, ...]:
        """The tokens with which a text ends, or with `chat` an assistant's turn; it is seldom more than one.

        A turn ends with the first special token that the chat template puts after an answer. Where it puts
        none, it ends as a text does.

        Raises:
            NoChatTemplate: as for `read_answer`.
            PromptError: the tokenizer has no token that ends a text, or the model's embedding no row for it.
        """
        found = self._turn_end() if chat else ()
        if not found and self.tokenizer.eos_token_id is not None:
            found = (int(self.tokenizer.eos_token_id),)
        if not found:
            raise PromptError("the tokenizer has no token that ends a text: go without the end of answers")
        self._check_rows(found, "the end of a text")
        return found

    def _turn_end(self) -> tuple[int, ...]:
        """What the chat template puts after an answer, up to its first special token; nothing without one."""
        frame, _, _ = chat_frame(self.tokenizer, _STAND_IN, _STAND_IN)
        after = self.read_fragment(frame.after or "")
        added = self.tokenizer.added_tokens_decoder.items()
        special = {*self.tokenizer.all_special_ids, *(token for token, what in added if what.special)}
        return tuple(after[: next((i + 1 for i, token in enumerate(after) if token in special), 0)])

    def read_fragment(self, text: str) -> list[int]:
        """The tokens of a part of a text, without any special tokens around it."""
        return list(self.tokenizer(composed(text), add_special_tokens=False)["input_ids"])

    def before_text(self) -> tuple[int, ...]:
        """The special tokens that the tokenizer puts before every text, as a BOS; often none."""
        return self._encoded("", chat=False, name="an empty text")[0]

    def sequences(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """The tokens of texts in order; longer ones go on in sequences of at most `length` tokens.

        Raises:
            PromptError: a token has no row in the model's embedding.
        """
        most = length if self.positions is None else min(length, self.positions)
        (ending,) = self._endings(self.tokenizer(["a"], return_special_tokens_mask=True))
        encoded = self.tokenizer(
            [composed(text) for text in texts],
            truncation=True,
            max_length=most + ending,
            return_overflowing_tokens=True,
            return_special_tokens_mask=True,
        )
        endings = self._endings(encoded)
        found = [ids[: len(ids) - more] for ids, more in zip(encoded["input_ids"], endings, strict=True)]
        for ids in found:
            self._check_rows(ids, "a text")
        return found

    def check_room(self, prompt: Sequence[int], more: int, name: str) -> None:
        """Refuse a prompt that has no room for `more` tokens after it.

        Raises:
            PromptError: prompt and answer together are longer than the model's positions.
        """
        if self.positions is not None and len(prompt) + more > self.positions:
            answer = f", and {more} of its answer" if more else ""
            raise PromptError(
                f"{name}: it is {len(prompt)} tokens long{answer}, and the model has {self.positions} "
                "positions: make it shorter"
            )

    def _with_spans(
        self, text: str, *, chat: bool, name: str
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        if not self.tokenizer.is_fast:
            raise PromptError(
                "a fast tokenizer is needed: slow ones do not say which characters a token covers"
            )
        ids, encoded = self._encoded(text, chat=chat, name=name, return_offsets_mapping=True)
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        return ids, character_spans(pieces, encoded["offset_mapping"][: len(ids)])

    def _tokens(self, text: str, *, chat: bool, name: str) -> tuple[int, ...]:
        ids, _ = self._encoded(text, chat=chat, name=name)
        if not ids:
            raise PromptError(f"{name}: it has no tokens, so nothing can follow it: ask something")
        return ids

    def _encoded(self, text: str, *, chat: bool, name: str, **options: bool) -> tuple[tuple[int, ...], Any]:
        """The tokens that the model reads, and all that the tokenizer tells."""
        if not is_encodable(text):
            raise PromptError(
                f"{name}: it has parts of characters: write it in UTF-8, and in no other encoding"
            )
        encoded = self.tokenizer(
            text,
            add_special_tokens=not chat,  # a chat template already contains them
            return_special_tokens_mask=True,
            **options,
        )
        (ending,) = self._endings({"special_tokens_mask": [encoded["special_tokens_mask"]]})
        ids = tuple(encoded["input_ids"][: len(encoded["input_ids"]) - ending])
        self._check_rows(ids, name)
        self.check_room(ids, 0, name)
        return ids, encoded

    @staticmethod
    def _endings(encoded: Any) -> list[int]:
        """How many special tokens the tokenizer has put behind each text, as an EOS."""
        return [sum(takewhile(bool, reversed(mask))) for mask in encoded["special_tokens_mask"]]

    def _check_rows(self, ids: Sequence[int], name: str) -> None:
        if self.rows is None or not ids or (largest := max(ids)) < self.rows:
            return
        piece = self.tokenizer.convert_ids_to_tokens(largest)
        raise PromptError(
            f"{name}: its token {piece!r} has the id {largest}, and the model's embedding has {self.rows} "
            "rows: use the model's own tokenizer, or give the embedding rows for added tokens and train them"
        )


def quoted(prompt: str) -> str:
    """A prompt's name in errors: its text, or the beginning of it."""
    return f"the prompt {prompt if len(prompt) <= _QUOTED else prompt[:_QUOTED] + '...'!r}"
