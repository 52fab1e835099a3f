"""Where a chat template puts a user's message and an assistant's answer.

An answer need not follow the generation prompt. Templates put channels, an empty block of thoughts or a blank
before it, and the generation prompt of some opens a block of thoughts. So both places are found by rendering
a whole exchange of placeholders. A message is never searched in a rendering: it may be "user" or "assistant".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from jinja2 import TemplateError

from moe_patch.errors import NoChatTemplate, PromptError

_MESSAGE, _ANSWER = "Qmessagez", "Xanswerj"  # words that no template contains

# What templates raise, and what fails in them: a template is a program.
_REFUSALS = (TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template puts around a user's message and an assistant's answer to it."""

    before: str  # up to the message
    between: str  # from the message to the answer
    after: str | None  # from the answer to the end; None if the template has no place for an answer

    def filled(self, message: str, answer: str) -> str:
        """The rendering of an exchange by a template that leaves its contents as they are."""
        return self.before + message + self.between + ("" if self.after is None else answer + self.after)


def chat_frame(tokenizer: Any, message: str, answer: str) -> tuple[Frame, str, str]:
    """The frame of an exchange, and its message and answer as the template leaves them.

    White space around a content may be removed by the template. Anything else must stay.

    Raises:
        NoChatTemplate: the tokenizer has no chat template.
        PromptError: the template refuses the exchange, or changes its contents.
    """
    template = repr(_template(tokenizer))
    for find in (_find_frame, _find_frame.__wrapped__):  # a known frame may have the date of yesterday
        frame = find(tokenizer, template)
        rendered = _render_exchange(tokenizer, message, answer if frame.after is not None else None)
        for said, replied in product((message, message.strip()), (answer, answer.strip())):
            if rendered == frame.filled(said, replied):
                return frame, said, replied
        _find_frame.cache_clear()
    raise PromptError(
        f"the chat template changes the prompt {message!r} or the answer {answer!r}, or frames them unlike "
        "others, so their places in it are not known: word them otherwise, or go without (--no-chat)"
    )


def generation_prompt(tokenizer: Any, message: str) -> str:
    """The text after which an assistant writes its reply to a user's message.

    Raises:
        NoChatTemplate: the tokenizer has no chat template.
        PromptError: the template refuses the message.
    """
    _template(tokenizer)
    return _render(tokenizer, [{"role": "user", "content": message}], generate=True)


@lru_cache(maxsize=8)
def _find_frame(tokenizer: Any, _template: str) -> Frame:
    """The frame of placeholders; kept for each tokenizer and template, since large templates are slow."""
    whole = _render_exchange(tokenizer, _MESSAGE, _ANSWER)
    placed = _ANSWER in whole
    if not placed:
        whole = generation_prompt(tokenizer, _MESSAGE)
    before, found, rest = whole.partition(_MESSAGE)
    between, _, after = rest.partition(_ANSWER)
    if not found:
        raise PromptError("the chat template changes the prompt: go without (--no-chat)")
    return Frame(before, between, after if placed else None)


def _render_exchange(tokenizer: Any, message: str, answer: str | None) -> str:
    """An exchange; a message with the generation prompt if the template has no place for an answer."""
    if answer is None:
        return generation_prompt(tokenizer, message)
    asked = {"role": "user", "content": message}
    return _render(tokenizer, [asked, {"role": "assistant", "content": answer}], generate=False)


def _render(tokenizer: Any, messages: list[dict[str, str]], *, generate: bool) -> str:
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
    except _REFUSALS as error:
        raise PromptError(f"the chat template refuses the prompt: {error}") from error
    return str(rendered)


def _template(tokenizer: Any) -> Any:
    found = getattr(tokenizer, "chat_template", None)
    if not found:
        raise NoChatTemplate(
            "the tokenizer has no chat template: go without (--no-chat), or give the tokenizer one"
        )
    return found
