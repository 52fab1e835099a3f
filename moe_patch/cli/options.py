"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from moe_patch.base.model import Base
    from moe_patch.data.fact_file import FactFile
    from moe_patch.patch import Patch

F = TypeVar("F", bound=Callable[..., Any])

DTYPES = ("auto", "float32", "bfloat16", "float16")

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
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
    help="Ask under the tokenizer's chat template.  [default: as the patch was built]",
)

mode_option = click.option(
    "--mode",
    type=click.Choice(["merge", "hook"]),
    default="merge",
    show_default=True,
    help="Add the patch to the weights, or compute it beside them.",
)


out_folder_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to write; it must not exist yet.",
)

link_option = click.option(
    "--link",
    type=click.Choice(["auto", "hard", "copy"]),
    default="auto",
    show_default=True,
    help="How files that stay the same get there: shared where that is possible, hard-linked, or copied.",
)


def model_options(command: F) -> F:
    """Add the options that say which model to open and how; they arrive as keywords for `open_model`."""
    model = click.option(
        "--model", help="Name or folder of the base model.  [default: atlas, the demo model]"
    )
    return model(opening_options(command))


def opening_options(command: F) -> F:
    """Add the options that say how a model is opened."""
    for option in reversed(
        (
            click.option(
                "--dtype",
                type=click.Choice(DTYPES),
                default="auto",
                show_default=True,
                help="Weights' type in memory.",
            ),
            click.option("--device-map", help='Where accelerate puts the layers: "auto", "cpu", "cuda", ...'),
            click.option(
                "--offload-folder",
                type=click.Path(file_okay=False, path_type=Path),
                help="Folder for layers that fit neither the GPU nor memory.",
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
    """Open the model that `model_options` describe; transformers' own bars are drawn on a terminal only."""
    import torch

    from moe_patch.base.opening import open_base

    quiet_transformers()
    wanted = None if dtype == "auto" else getattr(torch, dtype)
    return open_base(
        model,
        dtype=wanted,
        device_map=device_map,
        offload_folder=offload_folder,
        allow_dense=allow_dense,
    )


def quiet_transformers() -> None:
    """Keep transformers from notices of deprecation, and from drawing bars where there is no terminal."""
    from transformers.utils import logging as transformers_logging

    from moe_patch.cli.console import hide_notices

    hide_notices("transformers")
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def read_edits(path: Path, *, skip_invalid: bool = False, base: Base | None = None) -> FactFile:
    """Read a facts file; with a base, targets that its tokenizer makes nothing of are refused too."""
    from moe_patch.data.fact_file import read_facts

    def tokenize(text: str) -> list[int]:
        assert base is not None
        return list(base.tokenizer(text, add_special_tokens=False)["input_ids"])

    return read_facts(path, skip_invalid=skip_invalid, tokenize=tokenize if base else None)


def built_with_chat(patch: Patch, chat: bool | None) -> bool:
    """What `--chat` says, or else whether the patch was built under a chat template."""
    return patch.chat if chat is None else chat
