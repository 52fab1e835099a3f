"""The states of a model that are asked and compared: as it is, with a patch, or with a stack of patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moe_patch.cli.named_patches import load_named
from moe_patch.cli.options import FILE, allow_large_option, mode_option

if TYPE_CHECKING:
    from moe_patch.base.model import Base
    from moe_patch.evaluation import Setting
    from moe_patch.patch import Patch
    from moe_patch.progress import Progress

F = TypeVar("F", bound=Callable[..., Any])

BEFORE, AFTER, ALONE = "before", "after", "says"
"""What states are called: without the patch and with it, and that of a model that is asked without any."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """One state of a model."""

    name: str
    patches: tuple[Patch, ...]  # that are on together; none if the model is as it is

    @contextmanager
    def on(
        self, base: Base, chat: bool, progress: Progress | None = None, *, check: bool = True, **how: Any
    ) -> Iterator[Setting]:
        """A block in which the model is in this state, with the setting in which to ask it.

        Args:
            base: the model, without a patch.
            chat: whether prompts are put into its chat template.
            progress: called while prompts are run and the model is hashed.
            check: whether the patches are compared with the base.
            how: `mode` and `allow_large`, as in `moe_patch.apply`.

        Raises:
            MoePatchError: as for `moe_patch.evaluation.patched`.
        """
        from moe_patch.evaluation import Setting, patched
        from moe_patch.methods import rewriter_of

        rewriters = [found for patch in self.patches if (found := rewriter_of(base, patch)) is not None]
        setting = Setting(chat=chat, progress=progress, rewrite=rewriters[0] if rewriters else None)
        with ExitStack() as stack:
            for patch in self.patches:
                stack.enter_context(patched(base, patch, setting, check=check, **how))
            yield setting


def states_options(command: F) -> F:
    """Add the options that choose states and say how patches are put on."""
    patch = click.option(
        "--patch", "patch_paths", type=FILE, multiple=True, help="A patch to try; repeatable, each by itself."
    )
    stack = click.option("--stack", type=FILE, help="Lock file of a stack to try: all its enabled patches.")
    return patch(stack(mode_option(allow_large_option(command))))


def length_option(default: int) -> Callable[[F], F]:
    """Add `--max-tokens`, the length of an answer."""
    return click.option(
        "--max-tokens",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Length of an answer, in tokens.",
    )


def read_states(patch_paths: Sequence[Path], stack: Path | None) -> list[State]:
    """The bare model, and the model with each patch and with the stack.

    Raises:
        click.UsageError: a patch is given twice.
        MoePatchError: a patch or the stack cannot be read.
    """
    named = {name: (patch,) for name, patch in load_named(patch_paths).items()}
    states = [State(name, patches) for name, patches in named.items()]
    if stack is not None:
        states.append(State(f"stack {stack.name}", _stacked(stack)))
    if not states:
        return [State(ALONE, ())]
    if len(states) == 1:
        states = [State(AFTER, states[0].patches)]
    return [State(BEFORE, ()), *states]


def _stacked(lock_path: Path) -> tuple[Patch, ...]:
    from moe_patch.stack import resolve_with_bypasses

    parts = resolve_with_bypasses(lock_path)
    return parts.bypasses if parts.delta is None else (parts.delta, *parts.bypasses)


def all_patches(states: Sequence[State]) -> dict[str, Patch]:
    """The patches of all states, by names for messages."""
    return {
        state.name if len(state.patches) == 1 else f"{state.name}, {number}": patch
        for state in states
        for number, patch in enumerate(state.patches, start=1)
    }
