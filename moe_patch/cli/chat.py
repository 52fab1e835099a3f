"""`moe-patch chat`: a prompt line that stays open, with the answers of both states of a model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import print_json_line, say
from moe_patch.cli.named_patches import allow_dense, common_chat
from moe_patch.cli.options import chat_option, model_options, open_model
from moe_patch.cli.states import all_patches, length_option, read_states, states_options
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from pathlib import Path

    from moe_patch.base.model import Base
    from moe_patch.cli.states import State

QUIT = "/quit"


@click.command(
    epilog="""\b
Examples:
  moe-patch chat --patch capitals.safetensors
  moe-patch chat --patch capitals.safetensors --patch rivers.safetensors --max-tokens 100
  echo "The capital of France is" | moe-patch chat --stack moe-patch.stack --json
"""
)
@states_options
@length_option(64)
@chat_option
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for each prompt.")
def chat(
    patch_paths: tuple[Path, ...],
    stack: Path | None,
    mode: Any,
    allow_large: bool,
    max_tokens: int,
    chat: bool | None,
    as_json: bool,
    **model: Any,
) -> None:
    """Ask the model one prompt after the other, before and after the patch.

    Answers are the model's greedy continuations, shown while they are written. Each prompt stands alone: the
    answers before it are not part of it. The end of the input, or /quit, ends it. Where standard input is no
    terminal, each of its lines is a prompt.
    """
    states = read_states(patch_paths, stack)
    patches = all_patches(states)
    formatted = common_chat(patches, chat)
    base = open_model(**model, allow_dense=allow_dense(patches.values()))
    how = {"mode": mode, "allow_large": allow_large}
    with progress_bars() as progress:
        for state in states:
            with state.on(base, formatted, progress, **how):
                pass  # so that what does not fit is said before the first prompt
    typed = _is_typed()
    for prompt in _typed_prompts() if typed else _piped_prompts():
        if prompt == QUIT:
            return
        if prompt:
            _answer(base, states, prompt, max_tokens, formatted, as_json=as_json, go_on=typed, **how)


def _is_typed() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _typed_prompts() -> Iterator[str]:
    with suppress(ImportError):
        import readline  # noqa: F401  (with it, `input` has a history and keys to edit with)
    say(f"Type a prompt; {QUIT} ends.")
    try:
        while True:
            yield input("\n> ").strip()
    except EOFError:
        say("")


def _piped_prompts() -> Iterator[str]:
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", "replace").strip()


def _answer(
    base: Base,
    states: Sequence[State],
    prompt: str,
    length: int,
    chat: bool,
    *,
    as_json: bool,
    go_on: bool,
    **how: Any,
) -> None:
    """Show what each state says to a prompt. One that the model cannot read ends a pipe, and no terminal."""
    from moe_patch.errors import PromptError

    try:
        if as_json:
            print_json_line({"prompt": prompt, "answers": _write(base, states, prompt, length, chat, **how)})
        elif sys.stdout.isatty():
            _show_live(base, states, prompt, length, chat, **how)
        else:
            answers = _write(base, states, prompt, length, chat, **how)
            say(f"> {prompt}", *(f"{name}: {text}" for name, text in answers.items()), "")
    except PromptError as error:
        if not go_on:
            raise
        say(f"Error: {error}", err=True)


def _show_live(base: Base, states: Sequence[State], prompt: str, length: int, chat: bool, **how: Any) -> None:
    from rich.console import Console
    from rich.live import Live

    from moe_patch.cli.answers import answers_view

    console = Console(markup=False, emoji=False, highlight=False)
    shown = {state.name: "" for state in states}
    with Live(console=console, vertical_overflow="visible") as live:

        def show(name: str, text: str) -> None:
            shown[name] = text
            live.update(answers_view(shown, console.width))

        _write(base, states, prompt, length, chat, show, **how)


def _write(
    base: Base,
    states: Sequence[State],
    prompt: str,
    length: int,
    chat: bool,
    show: Callable[[str, str], None] = lambda name, text: None,
    **how: Any,
) -> dict[str, str]:
    """The answers by state; `show` is called with a state's name and its answer so far."""
    from moe_patch.evaluation.scoring import stream_answer

    found = {}
    for state in states:
        with state.on(base, chat, check=False, **how) as setting:
            found[state.name] = stream_answer(
                base, setting.asked(prompt), length, partial(show, state.name), chat=chat
            )
        show(state.name, found[state.name])
    return found
