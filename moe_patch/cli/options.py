"""Options that several commands share, and functions that evaluate them."""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moe_patch.cli.model_name import DEFAULT, say_model
from moe_patch.io.wording import did_you_mean

if TYPE_CHECKING:
    import torch

    from moe_patch.base.model import Base

F = TypeVar("F", bound=Callable[..., Any])

DTYPES = ("auto", "float32", "bfloat16", "float16")


class _RegularFile(click.Path):
    """A path of a file that can be read more than once, and to its end: no pipe and no device."""

    def __init__(self, *, exists: bool) -> None:
        super().__init__(exists=exists, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self.exists:
            self._suggest(Path(value), param, ctx)
        path = Path(super().convert(value, param, ctx))  # type: ignore[arg-type]  # never bytes: see path_type
        with suppress(OSError):  # whoever reads or writes it says what the matter is
            if not stat.S_ISREG(path.stat().st_mode):
                self.fail(
                    f"{path} is no regular file: write what a pipe or a device gives to one", param, ctx
                )
        return path

    def _suggest(self, path: Path, param: click.Parameter | None, ctx: click.Context | None) -> None:
        """If a file is not there but one beside it has nearly its name, say so."""
        with suppress(OSError, ValueError):  # as above
            if os.path.lexists(path):
                return
            if hint := did_you_mean(path.name, (one.name for one in path.parent.iterdir())):
                self.fail(f"File {str(path)!r} does not exist{hint}", param, ctx)


class NumberRange(click.FloatRange):
    """A number in a range. NaN, which no comparison finds outside of one, and infinities are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class _Corpus(click.ParamType[str]):
    """A source of text: a file, a folder, a pattern or a data set, with its weight. Local ones must exist."""

    name = "SOURCE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The source's text form, with an absolute path."""
        from moe_patch.data.corpus_source import CorpusSource
        from moe_patch.errors import MoePatchError

        try:
            source = CorpusSource.parse(str(value))
            if not source.in_hub:
                source.files()
        except MoePatchError as error:
            self.fail(str(error), param, ctx)
        return source.from_folder(Path.cwd())


FILE = _RegularFile(exists=True)
NEW_FILE = _RegularFile(exists=False)  # to be written, whether it is there or not
STREAM = click.Path(
    exists=True, dir_okay=False, path_type=Path
)  # read once; a pipe keeps secrets off the disk
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")

batch_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Prompts in one forward pass.",
)

chat_option = click.option(
    "--chat/--no-chat",
    default=None,
    help="Format prompts with the tokenizer's chat template.  [default: as the patch was built]",
)

schema_option = click.option(
    "--schema",
    type=click.Choice(["zsre-answers", "zsre-alt"]),
    help="What ZsRE records of the facts file edit to: the first of `answers`, scored by loc_ans, or `alt`, "
    "scored by agreement with the base.",
)

mode_option = click.option(
    "--mode",
    type=click.Choice(["merge", "hook"]),
    default="merge",
    show_default=True,
    help="Add the patch to the weights, or compute it next to them.",
)

allow_large_option = click.option(
    "--allow-large",
    is_flag=True,
    help="Accept changes that are many times as large as the experts that they change.",
)

corpus_option = click.option(
    "--corpus",
    type=_Corpus(),
    multiple=True,
    callback=lambda _ctx, _param, value: value or None,
    help="Preserved text: a file (.txt, .jsonl, .parquet), a folder, a pattern, or hf:owner/name of the Hub; "
    "repeatable, with =WEIGHT behind each.  [default: what the base writes itself]",
)

link_option = click.option(
    "--link",
    type=click.Choice(["auto", "hard", "copy"]),
    default="auto",
    show_default=True,
    help="How to transfer unchanged files: share their blocks if possible, hard-link them, or copy them.",
)


def model_options(command: F) -> F:
    """Add the options for the model and how to open it. Their values are keywords of `open_model`."""
    model = click.option("--model", help=f"Name or folder of the base model.  {DEFAULT}")
    return model(opening_options(command))


def opening_options(command: F) -> F:
    """Add the options for how to open a model."""
    for option in reversed(
        (
            click.option(
                "--dtype",
                type=click.Choice(DTYPES),
                default="auto",
                show_default=True,
                help="Type of the weights in memory.",
            ),
            click.option("--device-map", help='Where accelerate puts the layers: "auto", "cpu", "cuda", ...'),
            click.option(
                "--offload-folder",
                type=click.Path(file_okay=False, path_type=Path),
                help="Folder for layers that fit neither on the GPU nor in memory.",
            ),
        )
    ):
        command = option(command)
    return command


def open_model(
    model: str | None,
    dtype: str,
    device_map: str | None,
    offload_folder: Path | None,
    *,
    allow_dense: bool = False,
) -> Base:
    """Open the model that `model_options` describe. Progress bars appear on a terminal only."""
    from moe_patch.base.opening import open_base

    quiet_transformers()
    return open_base(
        say_model(model),
        dtype=dtype_of(dtype),
        device_map=device_map,
        offload_folder=offload_folder,
        allow_dense=allow_dense,
    )


def dtype_of(name: str) -> torch.dtype | None:
    """The type that `--dtype` names; None for the checkpoint's own."""
    import torch

    return None if name == "auto" else getattr(torch, name)


def quiet_transformers() -> None:
    """Hide deprecation messages of transformers, and its progress bars if stderr is not a terminal."""
    from transformers.utils import logging as transformers_logging

    from moe_patch.cli.console import hide_notices

    hide_notices("transformers")
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
