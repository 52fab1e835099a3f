"""`moe-patch export`: write a patch in another tool's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.model_name import DEFAULT, model_or_base_option, say_model
from moe_patch.cli.options import FILE, allow_large_option, json_option
from moe_patch.cli.output import out_folder_option
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from moe_patch.base.model import Base
    from moe_patch.patch import Patch

HIGHEST_RANK = 512  # the highest rank of an adapter that inference engines accept
_READERS = {"peft": "peft", "vllm-lora": "vllm"}


@click.command(
    epilog="""\b
Examples:
  moe-patch export capitals.safetensors --format peft --out capitals-lora
  moe-patch export capitals.safetensors --format peft --form split --max-rank 64 --out capitals-lora --json
  moe-patch export capitals.safetensors --format vllm-lora --out capitals-lora
"""
)
@click.argument("patch_path", metavar="PATCH", type=FILE)
@click.option(
    "--format",
    "target",
    type=click.Choice(list(_READERS)),
    required=True,
    help="Format of the LoRA adapter folder: for PEFT or for vLLM.",
)
@model_or_base_option(f"Name or folder of the patch's base.  {DEFAULT}")
@click.option(
    "--form",
    type=click.Choice(["packed", "split"]),
    help="One adapter for all experts of a layer (PEFT's target_parameters), or one for each expert.  "
    "[default: packed for peft; for vllm-lora, the form that vLLM reads for this architecture]",
)
@click.option(
    "--max-rank",
    type=click.IntRange(min=1),
    default=HIGHEST_RANK,
    show_default=True,
    help="Refuse a patch that needs a higher rank. The error says how much the best truncation would lose.",
)
@click.option("--truncate", is_flag=True, help="Truncate the patch to --max-rank instead of refusing it.")
@allow_large_option
@out_folder_option
@json_option
def export(
    patch_path: Path,
    target: str,
    model: str | None,
    form: Any,  # a Shape, or None
    max_rank: int,
    truncate: bool,
    allow_large: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Write PATCH as a LoRA adapter on the down projections of the experts.

    No weights are changed, so the adapter works with quantised weights too.
    """
    from moe_patch.io.files import refuse_existing

    refuse_existing(out)
    from moe_patch.export.lora import require_weights, to_lora
    from moe_patch.export.lora_forms import form_for, usual_shape
    from moe_patch.patch import load

    patch = load(patch_path)
    require_weights(patch)  # before the base is opened: what follows is for deltas only
    base, name_of = _base_of(patch, say_model(model), allow_large=allow_large)
    reader: Any = _READERS[target]
    form = form or usual_shape(reader, base.model.config.model_type)
    layout = form_for(reader, form)
    adapter = to_lora(patch, base, form=layout, max_rank=max_rank, truncate=truncate, name_of=name_of)
    adapter.save(out)
    written = {"out": str(out), "format": target, "form": form, "patch": patch.hash}
    written |= {"rank": adapter.rank, "rank_needed": adapter.needed, "lost": adapter.lost}
    if target == "vllm-lora":
        written["max_lora_rank"] = adapter.room
    if as_json:
        print_json(written)
        return
    table = plain_table("Written", ("", "value"))
    table.show_header = False
    table.add_row("folder", str(out))
    table.add_row("form", form)
    table.add_row("rank", f"{adapter.rank}, of {adapter.needed} in the patch")
    if target == "vllm-lora":
        table.add_row("vLLM needs", f"--enable-lora --max-lora-rank {adapter.room}")
    table.add_row("lost, worst fact", f"{100 * adapter.lost['worst']:.2g}%")
    table.add_row("lost, median fact", f"{100 * adapter.lost['median']:.2g}%")
    print_tables(table)


def _base_of(
    patch: Patch, name: str | None, *, allow_large: bool
) -> tuple[Base, Callable[[int, int], str] | None]:
    """The patch's base without weights, and how its checkpoint names experts.

    Quantised experts cannot be compared with a patch: only their sizes are checked.

    Raises:
        WrongBase: the patch was built for another base.
        OversizedEdit: a change is much larger than its expert, and that is not allowed.
    """
    from moe_patch.apply.weights.size import refuse_oversized
    from moe_patch.checkpoint.folder import open_checkpoint, open_meta, quantisation_scheme
    from moe_patch.errors import WrongBase
    from moe_patch.patch import check_base, check_shapes

    _, model = open_meta(name)
    method = quantisation_scheme(model)
    if method is None:
        check_shapes(patch, model.shapes)
        checkpoint = open_checkpoint(name)
        with progress_bars() as progress:
            check_base(patch, checkpoint.fingerprint_like(patch.base, progress=progress))
        if not allow_large:
            refuse_oversized(patch, checkpoint.weight)
        return checkpoint.base, checkpoint.stored_name
    found = model.outline([])
    if (found.model_type, found.index) != (patch.base.model_type, patch.base.index):
        raise WrongBase(f"the patch was built for another base: the MoE layers of {model.name} differ")
    say(f"{model.name} is quantised ({method}): only its sizes could be checked.", err=True)
    return model, None
