"""The command: `python -m recipes.realmoe --help`."""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from moe_patch.io.files import write_text
from moe_patch.progress import Progress, progress_bars

from .convert import Conversion, convert_layers
from .dense import find_dense, open_dense
from .own_text import BATCH, own_text
from .report import measure
from .surgery import NEW_MODEL, copy_all_but_experts

TOP_K = {"mixtral": 2, "qwen3_moe": 4}
# Of a dense layer's neurons, those that a token gets: 1,408 or all of 1,536. More and smaller experts are
# harder to choose between, and need them all to come within 1.3 times of the dense model's perplexity.
KEPT = {"mixtral": 11 / 12, "qwen3_moe": 1.0}
MEASURED = 8192  # tokens of held-out text
CONTEXT = 512
LENGTH = 192  # tokens of a text


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the model.")
@click.option("--architecture", type=click.Choice(list(TOP_K)), default="mixtral", show_default=True)
@click.option("--dense", "place", type=click.Path(path_type=Path, exists=True), help="Another Llama.")
@click.option("--texts", default=128, show_default=True, help=f"Texts of {LENGTH} tokens to convert on.")
@click.option(
    "--measure", "held_out", type=click.Path(path_type=Path, exists=True), help="English to measure on."
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(
    out: Path,
    architecture: str,
    place: Path | None,
    texts: int,
    held_out: Path | None,
    dtype: str,
    threads: int,
    seed: int,
) -> None:
    """Convert a dense Llama to a mixture of experts, and write it to OUT."""
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(threads)
    started = time.monotonic()
    dense, tokenizer = open_dense(place or find_dense())
    with progress_bars() as bars:
        text = _write_text(dense, tokenizer, texts, seed, bars)
        moe = _convert(dense, text, architecture, bars)
    moe.to(getattr(torch, dtype)).save_pretrained(out)
    tokenizer.save_pretrained(out)
    click.echo(f"{out}: made in {time.monotonic() - started:.0f} s")
    if held_out:
        report = measure(dense, moe, _held_out(tokenizer, held_out))
        write_text(out / "report.json", report.to_json() + "\n")
        click.echo(report.to_json())


def _write_text(
    dense: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: int, seed: int, progress: Progress | None
) -> Tensor:
    """Text of the model itself, (texts, LENGTH)."""
    batches = []
    for batch in own_text(dense, tokenizer, texts, LENGTH, seed):
        batches.append(batch)
        if progress:
            progress("texts", min(len(batches) * BATCH, texts), texts)
    return torch.cat(batches)[:texts]


def _convert(dense: nn.Module, text: Tensor, architecture: str, progress: Progress | None) -> nn.Module:
    top_k = TOP_K[architecture]
    kept = KEPT[architecture] * dense.config.intermediate_size
    width = int(kept / top_k) // 8 * 8  # kernels want rows of 16 bytes
    conversion = Conversion(top_k, width)
    moe = NEW_MODEL[architecture](dense.config, conversion.experts, top_k, width)
    copy_all_but_experts(dense, moe)
    layers = len(moe.model.layers)
    for number, _ in enumerate(convert_layers(dense, moe, text, conversion), 1):
        if progress:
            progress("layers", number, layers)
    return moe


def _held_out(tokenizer: PreTrainedTokenizerBase, file: Path) -> Tensor:
    """The last MEASURED tokens of a text file, (N, CONTEXT)."""
    tokens = torch.tensor(tokenizer(file.read_text(encoding="utf-8")).input_ids)[-MEASURED:]
    return tokens[len(tokens) % CONTEXT :].view(-1, CONTEXT)


if __name__ == "__main__":
    main()
